"""Notes which versions of policies each epoch of the node stands for, until a batch in the spool carries the note.

The agent's thread notes, the thread of the deny windows reads for its tally, and the thread that appends batches says
what is in the spool.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from enrich.model import Policy
from enrich.wire.in_force import MAX_POLICIES, MAX_WAITING, PoliciesInForce, PolicyVersion, version_of
from enrich.wire.journal_objects import encode_state
from probe.kernel.plan import Installed
from probe.policy.compiler import Subject

_MAX_BYTES: Final = 100_000
"""So much of a batch, which Kafka takes up to 1 MB by default, is for these."""
_POLICY_BYTES: Final = 60
"""What a policy takes beside its names, in JSON."""


class PoliciesOfEpochs:
    """Knows what applies to the node's pods since which epoch, as far as no batch in the spool says it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[PoliciesInForce] = deque(maxlen=MAX_WAITING)
        self._last: tuple[PolicyVersion, ...] | None = None
        self._changes = 0
        self._versions: dict[tuple[str, str, str], tuple[Policy, PolicyVersion]] = {}
        """The versions of the last time, so that only new ones are encoded."""

    def note(self, done: Installed, subjects: Iterable[Subject]) -> None:
        """Note what applies to the subjects since an installation."""
        policies = {id(applied.policy): applied.policy for subject in subjects for applied in subject.policies}
        found = {(type(one).__name__, *one.key): one for one in policies.values()}
        self._versions = {key: self._version(key, one) for key, one in found.items()}
        current = tuple(version for _, (_, version) in sorted(self._versions.items(), key=lambda item: item[0]))
        if current == self._last:
            return
        self._last, self._changes = current, self._changes + 1
        listed = current[: min(MAX_POLICIES, _room_for(map(_size, current)))]
        made = PoliciesInForce(
            change=self._changes, epoch=done.epoch, switched=done.switched, policies=listed,
            left_out=len(current) - len(listed),
        )  # fmt: skip
        with self._lock:
            self._waiting.append(made)

    def waiting(self) -> tuple[PoliciesInForce, ...]:
        """Return what no batch in the spool says yet, the oldest first, as much as a tally may have."""
        with self._lock:
            waiting = tuple(self._waiting)
        return waiting[: max(1, _room_for(sum(map(_size, one.policies)) for one in waiting))]

    def forget(self, published: Iterable[PoliciesInForce]) -> None:
        """Forget what a batch that is in the spool says."""
        changes = {one.change for one in published}
        with self._lock:
            kept = [one for one in self._waiting if one.change not in changes]
            self._waiting = deque(kept, MAX_WAITING)

    def _version(self, key: tuple[str, str, str], policy: Policy) -> tuple[Policy, PolicyVersion]:
        known = self._versions.get(key)
        if known is not None and known[0] is policy:
            return known
        try:
            version = version_of(encode_state(policy))
        except (ValueError, RecursionError):
            version = ""
        return policy, PolicyVersion(*key, policy.uid, version)


def _size(policy: PolicyVersion) -> int:
    return _POLICY_BYTES + len(policy.namespace) + len(policy.name) + len(policy.uid)


def _room_for(sizes: Iterable[int]) -> int:
    """Return how many of the first things of these sizes fit."""
    return sum(total <= _MAX_BYTES for total in accumulate(sizes))
