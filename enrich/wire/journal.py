"""The journal: each version of each object that decides or names, as the topic ``<prefix>.journal`` keeps it.

An entry says that from ``seen_ns`` on an object was in a state, or was gone. The state of a past time is what the
entries up to it say, the last one of each object. A gap says that for some time nobody wrote the journal: what happened
in it is known only by its outcome, which the entries right after the gap have.

The key of a record is ``CLUSTER/KIND/NAMESPACE/NAME``. The topic is not compacted: each version stays for
``WEIR_JOURNAL_DAYS``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from enrich.wire.bounds import (
    Cluster,
    Count,
    Kind,
    LabelKey,
    LabelValue,
    Namespace,
    NamespaceOrNone,
    Nanoseconds,
    ObjectName,
    Octet,
    Port,
    Uid,
)

VERSION: Final = 1


class ContainerPort(msgspec.Struct, frozen=True, array_like=True):
    """A container port that has a name."""

    name: str
    port: Port
    protocol: Octet


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What policies can see of pods that differ in nothing else than their name; :mod:`enrich.history.profile`."""

    namespace: Namespace
    workload_kind: str = ""
    workload_name: str = ""
    labels: dict[LabelKey, LabelValue]
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One version of one object, its end, or a gap. Times are nanoseconds of the writer's wall clock."""

    v: int = VERSION
    cluster: Cluster
    kind: Kind
    """NetworkPolicy, ClusterNetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy, Namespace, Node, Service,
    NetworkLogging, Profile; or Gap."""
    namespace: NamespaceOrNone = ""
    name: ObjectName = ""
    """Of a profile its number, of a gap nothing."""
    uid: Uid = ""
    resource_version: str = ""
    generation: Count = 0
    seen_ns: Nanoseconds
    """When the writer learned of this state. Of a gap: when it ended."""
    gone: bool = False
    """The object does not exist from here on. Then there is no ``object``."""
    object: msgspec.Raw = msgspec.Raw(b"null")
    """The state: a value of :mod:`enrich.model` (or :class:`Profile`) as msgspec writes it."""
    changed_by: str = ""
    """Who made this version, as the newest entry of the object's ``metadata.managedFields`` names its manager."""
    since_ns: Nanoseconds = 0
    """Of a gap: when the last writer surely wrote. Nothing is known between this and ``seen_ns``."""
