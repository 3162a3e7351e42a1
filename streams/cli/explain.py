"""What `weir explain` does: read the cluster once, ask the pure core, show the answer.

Exit 0 allowed (audit too: it passes), 1 denied, 2 cannot say. Nothing else ends with 1, a failure of ours included: who
tests for a deny must not be told one by a crash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from enrich.explain.explanation import ALLOW, AUDIT, DENY, Explanation, explain_connection
from enrich.explain.query import EndQuery, parse_destination, parse_source
from enrich.index.cluster import POLICY_KINDS, Cluster
from enrich.model import POLICY_API_VERSIONS, Namespace
from enrich.policy.matching import PolicyView
from enrich.runtime.settings import setting
from enrich.sources.factory import make_source
from enrich.sources.source import SourceError

CANNOT_SAY: Final = 2
EXITS: Final = {ALLOW: 0, AUDIT: 0, DENY: 1}
"""By verdict; every other one is :data:`CANNOT_SAY`."""

_USED: Final = frozenset(kind.__name__ for kind in POLICY_KINDS)
"""Kinds that an answer is made of: who may not list the others can have one all the same."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `weir explain` reads from the environment."""

    source: str = setting("WEIR_SOURCE", "kubernetes")
    """Where pods and policies come from: kubernetes, or manifests:FOLDER."""
    timeout_s: float = setting("WEIR_EXPLAIN_SECONDS", 15.0)
    """How long the API server may take to list everything."""


class UnreadableError(Exception):
    """The cluster could not be read; the message says why and what to do."""


def ask(settings: Settings, source: str, destination: str) -> Explanation:
    """The answer. Raises :class:`enrich.explain.query.EndError` for bad syntax, :class:`UnreadableError`."""
    ends = parse_source(source), parse_destination(destination)
    return explain_in(*read_cluster(settings), *ends)


def explain_in(cluster: Cluster, notes: Iterable[str], source: EndQuery, destination: EndQuery) -> Explanation:
    """The answer from an index as it stands."""
    found = cluster.snapshot()
    view = PolicyView(found.pods, found.namespaces, found.nodes, found.policies, found.cluster_policies)
    return explain_connection(view, cluster.services(), source, destination, notes)


def read_cluster(settings: Settings) -> tuple[Cluster, tuple[str, ...]]:
    """The index once everything that policy is made of was listed, and what is to be said of it."""
    cluster = Cluster()
    changed = threading.Event()
    cluster.subscribe(lambda _kinds: changed.set())
    try:
        source = make_source(settings.source, cluster)
        source.start()
    except SourceError as error:
        raise UnreadableError(f"{error}. Or give --source manifests:FOLDER") from error
    deadline = time.monotonic() + settings.timeout_s
    while waiting := _USED.intersection(cluster.missing()):
        changed.clear()
        left = deadline - time.monotonic()
        if left <= 0:
            # Not stopped: its threads may wait for a server that does not answer, and end with the process.
            raise UnreadableError(
                f"{', '.join(sorted(waiting))} not listed within {settings.timeout_s:g} s "
                f"(--timeout): {_reasons(source.problem())}"
            )
        if _USED.intersection(cluster.missing()):
            changed.wait(min(left, 0.5))
    notes = tuple(_about_refused(name) for name in source.refused())
    source.stop()
    return cluster, notes


def _about_refused(name: str) -> str:
    """What became of an object that the server holds and we do not understand; ``name`` begins with its kind."""
    if name.partition(" ")[0] in (Namespace.__name__, *(kind.__name__ for kind in POLICY_API_VERSIONS)):
        # enrich.sources.resources.Resource.closed
        return f"{name} is not understood: taken as closed, or, where only its kubeweir.io/mode is wrong, as enforced"
    return f"{name} is not understood, and left out"


def _reasons(problem: str | None) -> str:
    """What the watches of all kinds wait for, each reason once."""
    parts = (problem or "no answer yet").split("; ")
    return "; ".join(dict.fromkeys(part.partition(": ")[2] or part for part in parts))
