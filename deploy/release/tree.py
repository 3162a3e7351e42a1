"""What a release is made from: a commit, whose version stands in several files, and the section of the changelog.

Also how its parts run other programs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PLACES: Final = (
    ("pyproject.toml", r'(?m)^version = "(\S+)"$'),
    ("deploy/image/Dockerfile", r"ARG VERSION=(\S+)"),
    ("deploy/kubernetes/kustomization.yaml", r"newTag: (\S+)"),
    ("deploy/kubernetes/detach/kustomization.yaml", r"newTag: (\S+)"),
    ("deploy/helm/kubeweir/Chart.yaml", r"(?m)^version: (\S+)"),
    ("deploy/helm/kubeweir/Chart.yaml", r"(?m)^appVersion: (\S+)"),
    ("probe/cni/weir_cni.c", r'(?m)^#define RELEASE "(\S+)"$'),
    ("README.md", r"(?m)^- Version ([0-9.]+): "),
    ("docs/will-it-work.md", r"(?m)^Version ([0-9]+\.[0-9]+\.[0-9]+)\. "),
)
"""Each file in which the version stands, once for each pattern."""
_UNRELEASED: Final = "## [Unreleased]\n"


class ReleaseError(Exception):
    """A release cannot be made. The message has a line for each reason."""


@dataclass(frozen=True)
class Release:
    """A version, and the commit that it is made from."""

    version: str
    commit: str
    time: int
    """When the commit was made, in seconds since 1970. It stands for every time in what is built."""
    notes: str
    """The changelog's section, without its heading."""


def version_of(root: Path) -> str:
    """Return the version of a tree. Raises ReleaseError if the places do not agree."""
    found = {(name, pattern): re.findall(pattern, (root / name).read_text()) for name, pattern in PLACES}
    version = next(iter(found[PLACES[0]]), "")
    wrong = [f"{name} has the version {', '.join(texts) or 'nowhere'}" for (name, _), texts in found.items()
             if texts != [version]]  # fmt: skip
    if wrong:
        raise ReleaseError("\n".join([f"pyproject.toml has the version {version or 'nowhere'}, but:", *wrong]))
    return version


def section(changelog: str, version: str) -> str:
    """Return what the changelog says of a version; an empty text if it has no section of it."""
    found = re.search(rf"(?ms)^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## \[|\Z)", changelog)
    return found[1].strip() + "\n" if found and found[1].strip() else ""


def read_release(root: Path = ROOT) -> Release:
    """Return the release that the tree is ready for. Raises ReleaseError with everything that speaks against one."""
    problems = []
    dirty = _changes(root)
    if dirty:
        problems.append(f"the tree has changes that are not committed:\n{dirty}")
    commit = git(root, "rev-parse", "HEAD")
    try:
        version = version_of(root)
    except ReleaseError as error:
        raise ReleaseError("\n".join([*problems, str(error)])) from None
    changelog = (root / "CHANGELOG.md").read_text()
    notes = section(changelog, version)
    if not notes:
        problems.append(f"CHANGELOG.md has no section '## [{version}] - DATE' with words in it")
    if section(changelog.replace(_UNRELEASED, "## [0] - 0000-00-00\n"), "0"):
        text = f"CHANGELOG.md: 'Unreleased' is not empty, so this tree is not {version}"
        problems.append(f"{text}: make the next version with `make version VERSION=X.Y.Z`")
    tagged = git(root, "rev-parse", "-q", "--verify", f"refs/tags/v{version}^{{commit}}", check=False)
    if tagged and tagged != commit:
        problems.append(f"the tag v{version} is at the commit {tagged[:12]}, not at this one: take the next version")
    if problems:
        raise ReleaseError("\n".join(problems))
    return Release(version, commit, int(git(root, "log", "-1", "--format=%ct")), notes)


def _changes(root: Path) -> str:
    """Return what is not in the commit, as `git status --short` says it.

    Git may be told elsewhere than in the tree's .gitignore to keep silent about files. Those would get into the archive
    of sources and the wheel, for which only .gitignore counts.
    """
    changed = git(root, "status", "--porcelain", "--untracked-files=no")
    unknown = git(root, "ls-files", "--others", "--exclude-per-directory=.gitignore").splitlines()
    return "\n".join([*changed.splitlines(), *(f"?? {name}" for name in unknown)])


def set_version(version: str, date: str, root: Path = ROOT) -> None:
    """Write a version everywhere that it stands, and make the changelog's unreleased section its own.

    Raises ReleaseError, and writes nothing, if it is not a later version, or if there is nothing to release.
    """
    before = version_of(root)
    if not re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", version):
        raise ReleaseError(f"{version!r} is not a version: it must be X.Y.Z")
    if numbers(version) <= numbers(before):
        raise ReleaseError(f"{version} is not later than {before}, the version of this tree")
    changelog = (root / "CHANGELOG.md").read_text()
    if not section(changelog.replace(_UNRELEASED, "## [0] - 0000-00-00\n"), "0"):
        raise ReleaseError("CHANGELOG.md: there is nothing under 'Unreleased'")
    for name, pattern in PLACES:
        path = root / name
        text = path.read_text()
        found = re.search(pattern, text)
        assert found is not None  # noqa: S101 - version_of has found it
        path.write_text(text[: found.start(1)] + version + text[found.end(1) :])
    heading = f"{_UNRELEASED}\n## [{version}] - {date}\n"
    (root / "CHANGELOG.md").write_text(changelog.replace(_UNRELEASED, heading, 1))


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, by which versions are ordered."""
    return tuple(int(part) for part in version.split("."))


def git(root: Path, *words: str, check: bool = True) -> str:
    """Run git in a tree; return what it prints."""
    done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ReleaseError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run a program. Raises ReleaseError with its output if it fails."""
    try:
        done = subprocess.run(
            list(command), cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise ReleaseError(f"{command[0]} is needed, and is not installed") from None
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, command[:4]))} ... failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
