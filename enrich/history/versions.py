"""Versions of objects in the order of time, and the times of which nothing is known."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from enrich.history.moments import moment
from enrich.model import TIERED_KINDS, ClusterNetworkPolicy, Name
from enrich.wire.journal import JournalEntry, JournalError, Profile, state_of
from enrich.wire.journal_objects import JOURNALED, Journaled

FOREVER_NS: Final = (1 << 62) - 1
"""Later than any time that an entry can have."""
TIERED: Final = frozenset(kind.__name__ for kind in TIERED_KINDS)
_MAX_STATES: Final = 1_024
"""States of one track that are kept ready."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object, true from ``seen_ns`` on until the next one."""

    kind: str
    namespace: str
    name: str
    seen_ns: int
    state: Journaled | None
    """None: the object does not exist from here on, or this version cannot be read."""
    readable: bool = True
    """Whether the state is known. It is not if its entry cannot be read, or if the writer refused the state."""
    refused: str = ""
    """Why the writer refused the state."""
    changed_by: str = ""
    resource_version: str = ""
    generation: int = 0

    def repeats(self, other: Version) -> bool:
        """Return whether this version is the one before, written again."""
        mine, others = ((one.state, one.readable, one.refused, one.resource_version) for one in (self, other))
        return mine == others

    @property
    def key(self) -> Name:
        """The key of the object in a PolicyView. Policies of the tiers have their kind in place of a namespace if it is
        not ClusterNetworkPolicy, as in :meth:`enrich.index.cluster.Cluster.cluster_policies`."""
        return policy_key(self.kind, self.namespace, self.name)


class Gap(NamedTuple):
    """A time of which the journal knows nothing: from ``since_ns`` to before ``until_ns``."""

    since_ns: int
    until_ns: int
    text: str
    """Why, as a person reads it behind ``cannot say:``."""

    def covers(self, since_ns: int, until_ns: int) -> bool:
        """Return whether some of a time span, which includes ``until_ns``, is in the gap."""
        return self.since_ns <= until_ns and since_ns < self.until_ns


def policy_key(kind: str, namespace: str, name: str) -> Name:
    """Return the key of an object of a kind in a PolicyView."""
    return Name(kind if kind in TIERED and kind != ClusterNetworkPolicy.__name__ else namespace, name)


def version_of(entry: JournalEntry, seen_ns: int) -> Version | None:
    """Return what an entry says of an object, seen at ``seen_ns``; None for a kind that is not known here."""
    if entry.kind not in JOURNALED:
        return None
    state, readable = None, True
    try:
        state = state_of(entry)
    except JournalError:
        readable = False
    if isinstance(state, Profile):
        return None
    return Version(
        entry.kind, entry.namespace, entry.name, seen_ns, state, readable and not entry.refused, entry.refused,
        entry.changed_by, entry.resource_version, entry.generation,
    )  # fmt: skip


class Track:
    """The versions of objects that a question always needs together, such as the policies of one namespace."""

    def __init__(self) -> None:
        self.times: list[int] = []
        """When anything changed, rising, each time once."""
        self.gaps: list[Gap] = []
        """While the state of an object is not known."""
        self._open: dict[Name, int] = {}
        """The index of the gap that lasts until the next version of an object."""
        self._versions: dict[Name, list[Version]] = {}
        self._states: dict[int, dict[Name, Journaled]] = {}

    def add(self, version: Version, at_ns: int, complete_ns: int) -> None:
        """Add a version whose entry is of ``at_ns``, unless it is only repeated. Entries come in the order of time, and
        up to ``complete_ns`` there is one of each object.

        A version that was first seen before its entry is the one before, written again. If it is not, or if there
        should be one before and is not, the journal contradicts itself, and in between the state is not known."""
        versions = self._versions.setdefault(version.key, [])
        before = versions[-1] if versions else None
        if before is not None and version.repeats(before):
            return
        if version.seen_ns < at_ns and (before is not None or at_ns > complete_ns):
            since_ns = before.seen_ns if before is not None else version.seen_ns
            self.gaps.append(Gap(since_ns, at_ns, _contradiction_text(version, at_ns)))
            version = replace(version, seen_ns=at_ns)
        self._close(version.key, version.seen_ns)
        if not version.readable:
            self._open[version.key] = len(self.gaps)
            self.gaps.append(Gap(version.seen_ns, FOREVER_NS, _unknown_text(version)))
        versions.append(version)
        place = bisect_left(self.times, version.seen_ns)
        if self.times[place : place + 1] != [version.seen_ns]:
            self.times.insert(place, version.seen_ns)
        self._states.clear()

    def _close(self, key: Name, at_ns: int) -> None:
        """Note that the state of an object is known from here on."""
        index = self._open.pop(key, None)
        if index is not None:
            self.gaps[index] = self.gaps[index]._replace(until_ns=at_ns)

    def index(self, at_ns: int) -> int:
        """Return the number of the state as of a time; equal numbers mean the same state."""
        return bisect_right(self.times, at_ns)

    def at(self, at_ns: int) -> dict[Name, Journaled]:
        """Return the objects as of a time."""
        index = self.index(at_ns)
        found = self._states.get(index)
        if found is None:
            if len(self._states) >= _MAX_STATES:
                self._states.clear()
            found = self._states[index] = dict(self._objects(at_ns))
        return found

    def versions(self, key: Name) -> list[Version]:
        """Return the versions of one object, the oldest first."""
        return list(self._versions.get(key, ()))

    def all_versions(self) -> Iterator[Version]:
        """Yield every version of every object."""
        for versions in self._versions.values():
            yield from versions

    def _objects(self, at_ns: int) -> Iterator[tuple[Name, Journaled]]:
        for key, versions in self._versions.items():
            index = bisect_right(versions, at_ns, key=lambda version: version.seen_ns)
            state = versions[index - 1].state if index else None
            if state is not None:
                yield key, state


def _unknown_text(version: Version) -> str:
    text = f"the version of {_named(version)} of {moment(version.seen_ns)}"
    return f"the journal does not have {text}: {version.refused}" if version.refused else f"{text} cannot be read"


def _contradiction_text(version: Version, at_ns: int) -> str:
    return f"the entry of {_named(version)} of {moment(at_ns)} contradicts those before"


def _named(version: Version) -> str:
    return f"{version.kind} {'/'.join(part for part in (version.namespace, version.name) if part)}"
