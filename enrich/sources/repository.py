"""Reads what a repository delivers into a cluster: an ordinary folder of manifests, or the output of Helm or kustomize.

Beside the kinds that :mod:`enrich.parse.objects` reads, it takes what runs pods (:mod:`enrich.parse.pod_template`), and
counts all other kinds without reading them. A kind that is nearly that of a policy is a mistake all the same. Helm and
kustomize are not run: charts and patches are left out, and that is noted. Every mistake is found at once, and what has
none is still there. A folder of a service is read by :mod:`enrich.sources.manifest_files`, which refuses all of it.
"""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from enrich.model import TIERED_KINDS, NamedPort, Namespace, Node, Object
from enrich.network_logging import NetworkLogging
from enrich.parse.cursor import Field, UnknownFieldError
from enrich.parse.manifest import read_manifest
from enrich.parse.objects import API_VERSIONS, container_ports
from enrich.parse.pod_template import TEMPLATE_VERSIONS, PodTemplate, read_template
from enrich.sources.manifest_documents import (
    STDIN,
    SUFFIXES,
    Document,
    Place,
    Problem,
    Sort,
    documents,
    manifest_files,
    objects_in,
)
from enrich.sources.unseen_pods import namespace_of_unseen_pods

KINDS: Final[Mapping[str, str]] = {**API_VERSIONS, **TEMPLATE_VERSIONS}
"""The kinds that are read, with the version of each."""
Key = tuple[str, str, str]
"""Kind, namespace and name of an object."""
_STDIN_NAME: Final = "standard input"
_CHART: Final = "Chart.yaml"
_KUSTOMIZATIONS: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_CHANGES: Final = frozenset(
    (
        "namespace", "namePrefix", "nameSuffix", "labels", "commonLabels", "commonAnnotations", "patches",
        "patchesStrategicMerge", "patchesJson6902", "replacements", "components", "helmCharts", "transformers",
    )
)  # fmt: skip
"""Fields of a kustomization that make the objects different from what the files say, or that add some."""
_PATCHES: Final = ("patches", "patchesStrategicMerge", "patchesJson6902")
_LIKENESS: Final = 0.8
"""How alike a kind must be to one that is read, to be a mistake and not another kind of the same API group."""
_CLUSTER_SCOPED: Final = frozenset(kind.__name__ for kind in (*TIERED_KINDS, NetworkLogging, Node))
_NO_OBJECT: Final = "without apiVersion and kind"


@dataclass(frozen=True, slots=True)
class Written:
    """An object as it is written in a file."""

    document: Document
    item: str
    content: Mapping[str, Any]

    def at(self, field: str) -> Place:
        """Return where a field of the object is."""
        return self.document.at(field, self.item)


@dataclass(slots=True)
class Repository:
    """What was read."""

    files: int = 0
    objects: dict[Key, Object] = field(default_factory=dict)
    """All objects but those that run pods."""
    templates: dict[Key, PodTemplate] = field(default_factory=dict)
    ports: dict[Key, tuple[NamedPort, ...]] = field(default_factory=dict)
    """All ports of the containers of Pods, those without a name included."""
    written: dict[Key, Written] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unrendered: list[tuple[Place, str, str]] = field(default_factory=list)
    """What Helm or kustomize would make: where, what, and how to have it read."""
    generated: Counter[Key] = field(default_factory=Counter)
    """How many objects of each ``generateName`` have got a number. The API server gives each a name of its own."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many objects of each kind were not read."""
    unsure: dict[str, str] = field(default_factory=dict)
    """Why the pods of a namespace are not all known."""
    unsure_everywhere: str = ""
    """Why there may be pods in any namespace that no file has."""


def read_repository(paths: Iterable[Path], kinds: Collection[str] = KINDS) -> Repository:
    """Read files, all files below folders, and standard input (``-``). ``kinds``: only these are read.

    What is wrong is in :attr:`Repository.problems`; nothing is raised."""
    made = Repository()
    for file in _files(paths, made):
        made.files += 1
        for document in documents(file, name_of(file), made.problems):
            for item, content in objects_in(document, made.problems, KINDS):
                before, written = len(made.problems), Written(document, item, content)
                _read(made, written, kinds)
                whose = _whose(written)
                made.problems[before:] = (replace(one, namespace=whose) for one in made.problems[before:])
    return made


def name_of(file: Path) -> str:
    """Return what messages call a file."""
    return _STDIN_NAME if file == STDIN else str(file)


def skipped_text(skipped: Mapping[str, int]) -> str:
    """Return which kinds were not read, and how many objects of each."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))


# --- files


def _files(paths: Iterable[Path], made: Repository) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in paths:
        if not _is_folder(path):
            if path not in seen:
                yield path
            seen.add(path)
            continue
        before = len(made.problems)
        found = manifest_files(path, made.problems, _KUSTOMIZATIONS)
        if not found and len(made.problems) == before:
            made.problems.append(
                Problem(Place(str(path)), f"has no file that ends in {', '.join(SUFFIXES)}", "unreadable")
            )
        charts = [file.parent for file in found if file.name == _CHART]
        for chart in charts:
            if not any(chart != other and chart.is_relative_to(other) for other in charts):
                place = Place(str(chart / _CHART), 1, 1)
                todo = f"helm template {shlex.quote(str(chart))} | weir check -"
                made.unrendered.append((place, "Helm is not run, so that this chart is not read", todo))
                made.unsure_everywhere = f"chart {chart} may run pods that no file has"
        patches = {patch for file in found if file.name in _KUSTOMIZATIONS for patch in _patches(file, made)}
        for file in found:
            in_chart = any(file.is_relative_to(chart) for chart in charts)
            if in_chart or file.resolve() in patches or file in seen or not file.stat().st_size:
                continue
            seen.add(file)
            if file.name not in _KUSTOMIZATIONS:
                yield file


def _is_folder(path: Path) -> bool:
    # What cannot be looked at is reported when it is opened.
    with contextlib.suppress(OSError):
        return path != STDIN and path.is_dir()
    return False


def _patches(file: Path, made: Repository) -> Iterator[Path]:
    """Yield the files that a kustomization has as patches, which are parts of objects."""
    for document in documents(file, str(file), made.problems):
        content = document.content
        if not isinstance(content, dict):
            continue
        changes = sorted(map(str, _CHANGES.intersection(content)))
        if changes:
            text = f"kustomize is not run, so that what it changes is missing ({', '.join(changes)})"
            todo = f"kustomize build {shlex.quote(str(file.parent))} | weir check -"
            made.unrendered.append((document.at(changes[0]), text, todo))
        for name in _PATCHES:
            listed = content.get(name)
            for one in listed if isinstance(listed, list) else ():
                path = one.get("path") if isinstance(one, dict) else one
                if isinstance(path, str) and "\n" not in path:
                    # A text of another form, with a NUL perhaps, and a link to itself name no file.
                    with contextlib.suppress(ValueError, RuntimeError, OSError):
                        yield (file.parent / path).resolve()


# --- objects


def _read(made: Repository, written: Written, kinds: Collection[str]) -> None:
    content = written.content
    if isinstance(content, list) and any(isinstance(one, dict) and "apiVersion" in one for one in content):
        made.problems.append(Problem(written.at(""), "must be an object, is a list of objects: put --- between them"))
        return
    if not isinstance(content, dict) or not (content.get("kind") or content.get("apiVersion")):
        made.skipped[_NO_OBJECT] += 1
        return
    kind, version = content.get("kind"), content.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str):
        name = "apiVersion" if isinstance(kind, str) else "kind"
        text = "is required" if content.get(name) is None else f"must be a string, is {content[name]!r}"
        made.problems.append(Problem(written.at(name), f"{name}: {text}"))
    elif kind not in KINDS or not _is_own(kind, version):
        _skip(made, written, kind, version)
    elif kind not in kinds:
        made.skipped[kind] += 1
    else:
        _take(made, Written(written.document, written.item, _named(made, written, kind)), kind)


def _is_own(kind: str, version: str) -> bool:
    """Return whether a kind of an API version is the one that is read, perhaps in another version. Knative's Service
    and Calico's NetworkPolicy are others."""
    group = version.rpartition("/")[0]
    return group == KINDS[kind].rpartition("/")[0] or group == "extensions"


def _skip(made: Repository, written: Written, kind: str, version: str) -> None:
    group = version.rpartition("/")[0]
    related = [one for one, own in KINDS.items() if own.rpartition("/")[0] == group]
    near = None if kind in KINDS else get_close_matches(kind.lower(), map(str.lower, related), 1, _LIKENESS)
    if near:
        named = next(one for one in related if one.lower() == near[0])
        # A policy whose kind is mistyped would silently not exist.
        made.problems.append(Problem(written.at("kind"), f"kind: there is no {version} {kind}; did you mean {named}?"))
        return
    made.skipped[f"{kind} ({group})" if "." in group else kind] += 1
    namespace = namespace_of_unseen_pods(kind, group, written.content.get("spec"), _namespace(written))
    if namespace is not None:
        made.unsure.setdefault(namespace, f"{kind} {_name(written)} may run pods that no file has")


def _named(made: Repository, written: Written, kind: str) -> Mapping[str, Any]:
    """Return an object whose name the API server would generate with a name that no other has."""
    meta = written.content.get("metadata")
    if not isinstance(meta, dict) or meta.get("name") is not None or not isinstance(meta.get("generateName"), str):
        return written.content
    prefix, namespace = meta["generateName"].rstrip("-."), _namespace(written)
    name = prefix
    while (kind, namespace, name) in made.written:
        made.generated[kind, namespace, prefix] += 1
        name = f"{prefix}-{made.generated[kind, namespace, prefix]}"
    return {**written.content, "metadata": {**meta, "name": name}}


def _take(made: Repository, written: Written, kind: str) -> None:
    """Add an object of a kind that is read, and the mistakes in it."""
    found: Object | PodTemplate | None
    found, mistakes = read_template(written.content) if kind in TEMPLATE_VERSIONS else (None, [])
    if found is None and not mistakes:
        found, mistakes = read_manifest(written.content)
    for mistake in mistakes:
        sort: Sort = "unknown field" if isinstance(mistake, UnknownFieldError) else "invalid"
        made.problems.append(Problem(written.at(mistake.field), str(mistake), sort))
    if found is None:
        made.unsure.setdefault(_namespace(written), f"{kind} {_name(written)} has a mistake")
        return
    name = found.name if isinstance(found, PodTemplate) else found.key
    key = (kind, name.namespace, name.name)
    if key in made.written:
        text = f"{kind} {name} is also in {made.written[key].at('')}"
        made.problems.append(Problem(written.at(""), text, "duplicate"))
    made.written[key] = written
    if isinstance(found, PodTemplate):
        made.templates[key] = found
        return
    made.objects[key] = found
    if kind == "Pod":
        made.ports[key] = tuple(container_ports(Field("spec", written.content.get("spec"))))


def _whose(written: Written) -> str | None:
    """Return the namespace that a mistake in an object is about, None if it is not known. A name that is missing may be
    mistyped."""
    kind = written.content.get("kind") if isinstance(written.content, dict) else None
    if kind == Namespace.__name__:
        return _metadata(written, "name") or None
    if isinstance(kind, str) and kind in _CLUSTER_SCOPED:
        return ""
    return _metadata(written, "namespace") or None


def _namespace(written: Written) -> str:
    return _metadata(written, "namespace") or "default"


def _name(written: Written) -> str:
    return _metadata(written, "name") or _metadata(written, "generateName")


def _metadata(written: Written, field: str) -> str:
    meta = written.content.get("metadata") if isinstance(written.content, dict) else None
    found = meta.get(field) if isinstance(meta, dict) else None
    return found if isinstance(found, str) else ""
