"""What `weir explain` does: read the cluster once, and let :mod:`enrich.explain` answer.

Exit codes: 0 allowed (audited too, because the connection passes), 1 denied, 2 cannot say. No failure exits with 1, so
that a script that tests for a denial is not misled by a crash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from enrich.explain.explanation import ALLOW, AUDIT, DENY, Explanation, explain_connection
from enrich.explain.query import EndQuery, parse_destination, parse_source
from enrich.history.advice.suggestion import Suggestion, suggest
from enrich.index.cluster import POLICY_KINDS, Cluster
from enrich.model import POLICY_API_VERSIONS, Namespace
from enrich.policy.matching import PolicyView
from enrich.runtime.settings import setting
from enrich.sources.factory import make_source
from enrich.sources.manifest_documents import ManifestError
from enrich.sources.source import SourceError
from streams.cli.explain_files import explain_files

CANNOT_SAY: Final = 2
EXITS: Final = {ALLOW: 0, AUDIT: 0, DENY: 1}
"""Exit code by verdict; every other verdict exits with :data:`CANNOT_SAY`."""

_POLICIES: Final = frozenset(kind.__name__ for kind in POLICY_API_VERSIONS)
_USED: Final = frozenset(kind.__name__ for kind in POLICY_KINDS)
"""Kinds that an answer depends on. An account that may not list the other kinds still gets an answer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `weir explain` reads from the environment."""

    source: str = setting("WEIR_SOURCE", "kubernetes")
    """Where pods and policies come from: kubernetes, or manifests:FOLDER (- for standard input)."""
    timeout_s: float = setting("WEIR_EXPLAIN_SECONDS", 15.0)
    """How many seconds the API server may take to list everything."""


class UnreadableError(Exception):
    """The cluster could not be read; the message says why and what to do."""


def ask(settings: Settings, source: str, destination: str) -> tuple[Explanation, Callable[[], Suggestion]]:
    """Return the answer, and a function that returns what would allow the connection.

    Raises :class:`enrich.explain.query.QuerySyntaxError`, :class:`UnreadableError`."""
    ends = parse_source(source), parse_destination(destination)
    kind, _, folder = settings.source.partition(":")
    if kind == "manifests" and folder:
        try:
            return explain_files(Path(folder), *ends)
        except ManifestError as error:
            raise UnreadableError(str(error)) from error
    return explain_in(*read_cluster(settings), *ends)


def explain_in(
    cluster: Cluster, notes: Iterable[str], source: EndQuery, destination: EndQuery
) -> tuple[Explanation, Callable[[], Suggestion]]:
    """Return the answer from the current content of an index, and a function that returns what would allow the
    connection."""
    found = cluster.snapshot()
    view = PolicyView(found.pods, found.namespaces, found.nodes, found.policies, found.cluster_policies)
    services = cluster.services()
    answer = explain_connection(view, services, source, destination, notes)
    return answer, partial(suggest, view, services, source, destination)


def read_cluster(settings: Settings) -> tuple[Cluster, tuple[str, ...]]:
    """Return the index when everything that policy depends on is listed, and notes for the answer.

    Raises :class:`UnreadableError`."""
    cluster = Cluster()
    changed = threading.Event()
    cluster.subscribe(lambda _kinds: changed.set())
    try:
        source = make_source(settings.source, cluster)
        source.start()
    except SourceError as error:
        hint = ". Or give --source manifests:FOLDER" if settings.source == "kubernetes" else ""
        raise UnreadableError(f"{error}{hint}") from error
    deadline = time.monotonic() + settings.timeout_s
    while waiting := _USED.intersection(cluster.missing()):
        changed.clear()
        left = deadline - time.monotonic()
        if left <= 0:
            # The source is not stopped: its threads may be waiting for a server that does not answer. They end with the
            # process.
            raise UnreadableError(
                f"{', '.join(sorted(waiting))} not listed within {settings.timeout_s:g} s "
                f"(--timeout): {_reasons(source.problem())}"
            )
        if _USED.intersection(cluster.missing()):
            changed.wait(min(left, 0.5))
    notes = [*_about_unserved(source.problem()), *(_about_refused(name) for name in source.refused())]
    source.stop()
    return cluster, tuple(notes)


def _about_unserved(problem: str | None) -> Iterator[str]:
    """Return a note about each kind of policy that the server has in a version which is not read here."""
    for part in (problem or "").split("; "):
        kind, _, why = part.partition(": ")
        if kind in _POLICIES and "this program reads" in why:
            # enrich.sources.definition: a probe goes on to enforce what it saw before, which this process did not.
            yield f"{kind}: {why}. What of it a probe still enforces is on its /readyz, and not part of this answer"


def _about_refused(name: str) -> str:
    """Return a note about an object that cannot be interpreted; ``name`` begins with its kind."""
    if name.partition(" ")[0] in (Namespace.__name__, *_POLICIES):
        # enrich.sources.resources.Resource.readable
        return (
            f"{name} cannot be interpreted in full: what is wrong in it matches nothing (in a ClusterNetworkPolicy's "
            "rules that deny, everything), and the rest holds"
        )
    return f"{name} cannot be interpreted, and is ignored"


def _reasons(problem: str | None) -> str:
    """Return what the watches of all kinds wait for, each reason once."""
    parts = (problem or "no answer yet").split("; ")
    return "; ".join(dict.fromkeys(part.partition(": ")[2] or part for part in parts))
