"""Journals in memory, as a writer would write them."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from enrich.history.profile import number_of
from enrich.model import Namespace, NetworkPolicy, Node
from enrich.parse.objects import parse
from enrich.wire.journal import JournalEntry, Profile, raw_state

CLUSTER = "c1"
SECOND_NS = 1_000_000_000
START_NS = (time.time_ns() // (3600 * SECOND_NS) - 5) * 3600 * SECOND_NS
"""Five hours ago, at the full hour: inside the windows that commands read by default."""


def at(seconds: float) -> int:
    """Return a time so many seconds after the journal begins."""
    return START_NS + int(seconds * SECOND_NS)


def begin() -> JournalEntry:
    """Return the first writer's first entry."""
    return JournalEntry(cluster=CLUSTER, kind="Gap", seen_ns=START_NS)


def gap(since: float, until: float) -> JournalEntry:
    return JournalEntry(cluster=CLUSTER, kind="Gap", since_ns=at(since), seen_ns=at(until))


def entry(made: Any, seconds: float, by: str = "kubectl", version: str = "", **rest: Any) -> JournalEntry:
    """Return an entry with the state of an object."""
    if isinstance(made, Profile):
        kind, namespace, name, uid = "Profile", made.namespace, number_of(made), ""
    else:
        kind, uid = type(made).__name__, made.uid
        namespace, name = getattr(made, "namespace", ""), made.name
    return JournalEntry(
        cluster=CLUSTER, kind=kind, namespace=namespace, name=name, uid=uid, resource_version=version or str(seconds),
        seen_ns=at(seconds), object=raw_state(made), changed_by=by, **rest,
    )  # fmt: skip


def gone(made: Any, seconds: float, by: str = "") -> JournalEntry:
    return msgspec.structs.replace(entry(made, seconds, by), gone=True, object=msgspec.Raw(b"null"))


def refused(made: Any, seconds: float, **rest: Any) -> JournalEntry:
    """Return an entry of an object whose state was outside the bounds."""
    why = "its state has 1000000 bytes, more than 900000"
    return msgspec.structs.replace(entry(made, seconds, **rest), refused=why, object=msgspec.Raw(b"null"))


def policy(name: str, spec: dict[str, Any], namespace: str = "shop", **annotations: str) -> NetworkPolicy:
    made = parse({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": spec,
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "annotations": annotations},
    })  # fmt: skip
    assert isinstance(made, NetworkPolicy)
    return made


def namespace(name: str, **labels: str) -> Namespace:
    return Namespace(name, f"uid-{name}", {"kubernetes.io/metadata.name": name, **labels})


def node(name: str, *ips: str, pod_cidrs: tuple[str, ...] = ()) -> Node:
    return Node(name, f"uid-{name}", {}, ips, pod_cidrs=pod_cidrs)
