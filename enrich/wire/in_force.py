"""Which versions of policies an epoch of a node stands for.

The epoch is the number of the kernel's policy state on a node; each switch of policy raises it. When the policies that
apply to its pods have changed, the probe says in a tally (:mod:`enrich.wire.tally`) since which epoch they apply, and
workers write that to the topic of status records. An example::

    change 7: epoch 52, policies shop/web version 3f..., shop/db version a1...
    change 8: epoch 54, policies shop/web version 9c..., shop/db version a1...

So epochs 52 and 53 stand for the first two versions: 53 has changed something else, such as a pod's address.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from enrich.wire.bounds import Cluster, Count, Kind, NamespaceOrNone, Node, ObjectName, RingId, Uid

MAX_POLICIES: Final = 1000
"""Policies in one record."""
MAX_WAITING: Final = 16
"""Records in one tally."""
_VERSION_BYTES: Final = 8


_Version = Annotated[str, Meta(max_length=16, pattern=r"\A([0-9a-f]{16})?\Z")]
_Time = Annotated[str, Meta(max_length=40)]


class PolicyVersion(msgspec.Struct, frozen=True, array_like=True):
    """A policy as it was at some time."""

    kind: Kind
    namespace: NamespaceOrNone
    name: ObjectName
    uid: Uid
    version: _Version
    """What :func:`version_of` makes of its state; empty if the state does not fit the form of the journal."""


class PoliciesInForce(msgspec.Struct, frozen=True, kw_only=True):
    """The policies that apply to the pods of a node, from an epoch on."""

    change: Count
    """The number of this record since the probe started, from 1. A missing number is a record that was lost."""
    epoch: Count
    switched: tuple[Count, Count] | None = None
    """The node's monotonic clock in nanoseconds before and after the switch to the epoch; None if there was no switch,
    because this probe found the epoch in force when it started, or because the change does not concern the kernel (an
    annotation about logging)."""
    policies: Annotated[tuple[PolicyVersion, ...], Meta(max_length=MAX_POLICIES)]
    """Sorted."""
    left_out: Count = 0
    """How many policies of the node are not listed, because there was no room for them."""


class ListedPolicy(msgspec.Struct, frozen=True):
    """A :class:`PolicyVersion` in the form of the status topic."""

    kind: Kind
    namespace: NamespaceOrNone
    name: ObjectName
    uid: Uid
    version: _Version

    def as_version(self) -> PolicyVersion:
        """Return the version in the form of the tally."""
        return PolicyVersion(self.kind, self.namespace, self.name, self.uid, self.version)


class InForceRecord(msgspec.Struct, frozen=True):
    """A record of the status topic of type ``policies``; see ``streams/schemas/status.schema.json``."""

    type: Literal["policies"]
    cluster: Cluster
    node: Node
    ring: RingId
    change: Count
    epoch: Count
    policies: Annotated[tuple[ListedPolicy, ...], Meta(max_length=MAX_POLICIES)]
    left_out: Count
    in_force: tuple[_Time, _Time] | None = None


decode_in_force = msgspec.json.Decoder(InForceRecord).decode
"""Decode a record of the status topic. Raises msgspec.DecodeError for any other than of policies in force."""


def version_of(state: bytes | msgspec.Raw) -> str:
    """Return the version of a state, as :attr:`enrich.wire.journal.JournalEntry.object` has it: 16 hexadecimal
    digits."""
    return hashlib.blake2b(bytes(state), digest_size=_VERSION_BYTES).hexdigest()
