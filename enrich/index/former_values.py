"""What a key meant before it changed: the labels of a pod, the zone of a node, the owner of an address.

THEORY OF OPERATION

The index has the present value of each key. A record is about the packet's time, which may be an hour ago, so each
change of a value is kept with the value before it and with two times: the change was made after ``after`` (until then
the index had every change) and by ``by`` (then it was observed). An example with clocks that may differ by 1 s:

1. Pod web-1 is listed with color=blue. At 30.0 the watch reports color=green; it had been in sync until 29.5.
2. A packet at 20 was blue's, and one at 40 green's. One at 30.2 was before or after the change: both values are
   possible from 28.5 to 31.0, and the reader says only what is true of both.

A key without changes has had its present value for ever: a pod, a node or a Service whose changes, if any, the index
never saw is what people expect it to be. A value that is older than the retention, and one that there is no room for,
is not known any more; then nothing is said about that time.

Readers take no lock. They read the changes of a key before the floor, and a writer raises the floor before it removes a
key, so that no reader takes a key that is being removed for one that never changed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import KeysView
from typing import Final, Generic, NamedTuple, TypeVar

from enrich.index.intervals import FOREVER

MAX_CHANGES: Final = 5_000
"""So many keys and so many changes are remembered, the last ones."""
CHANGE_BYTES: Final = 800
"""What a change takes with its key and its value, about: measured, and rounded up. It is 1700 for a pod, 1050 for a
workload and 440 to 720 for others, and this is the mean of the tables."""
_KEY_LIMIT: Final = 16
"""So many changes of a key are remembered, the last ones."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class _Unknown:
    """Stands for a value that was forgotten."""


_UNKNOWN: Final = _Unknown()


class _Change(NamedTuple):
    before: object
    after_ns: int
    by_ns: int


class PossibleValues(NamedTuple, Generic[Value]):
    """The values that a key may have had at a moment, one if that is certain."""

    values: tuple[Value, ...]
    """Empty if the value is not known."""
    since_ns: int
    until_ns: int
    """The answer is the same from ``since_ns`` until ``until_ns`` (not included)."""


class FormerValues(Generic[Key, Value]):
    """The former values of keys. One thread at a time writes; any thread may look up."""

    def __init__(self, tail_ns: int, skew_ns: int, limit: int = MAX_CHANGES) -> None:
        """``tail_ns``: for how long former values stay known. ``skew_ns``: by how much clocks may differ."""
        self._tail_ns, self._skew_ns, self._limit = tail_ns, skew_ns, limit
        self._changes: OrderedDict[Key, tuple[_Change, ...]] = OrderedDict()
        self._ages: deque[tuple[int, Key]] = deque()
        self.latest_ns = -FOREVER
        """The moment from which every key surely has its present value."""
        self._floor_ns = -FOREVER
        """Before this moment keys that were forgotten may have had other values."""

    def __contains__(self, key: Key) -> bool:
        """Whether the key may have had another value than it has now."""
        return key in self._changes or self._floor_ns != -FOREVER

    def keys(self) -> KeysView[Key]:
        """Return the keys that are known to have changed."""
        return self._changes.keys()

    def note(self, key: Key, before: Value, now: int, synced_until: int) -> None:
        """Note that the value of a key is another one than ``before`` since some time between ``synced_until`` and
        ``now``. Several changes at one moment are one."""
        self._add(key, _Change(before, min(synced_until, now), now), now)

    def note_earlier(self, key: Key, before: Value, after_ns: int, by_ns: int, now: int) -> None:
        """Note a change that was made before all those that are known of the key."""
        known = self._changes.get(key, ())
        if not known or by_ns <= known[0].by_ns:
            self._add(key, _Change(before, min(after_ns, by_ns), by_ns), now)

    def _add(self, key: Key, change: _Change, now: int) -> None:
        known = self._changes.get(key, ())
        if not any(one.by_ns == change.by_ns for one in known):
            known = tuple(sorted((*known, change), key=_by))
            self._ages.append((now, key))
        if len(known) > _KEY_LIMIT:
            known = (known[-_KEY_LIMIT]._replace(before=_UNKNOWN), *known[1 - _KEY_LIMIT :])
        self.latest_ns = max(self.latest_ns, change.by_ns + self._skew_ns)
        self._changes[key] = known
        # The keys stand in the order of their last changes.
        self._changes.move_to_end(key)
        if len(self._changes) > self._limit:
            oldest, forgotten = next(iter(self._changes.items()))
            self._floor_ns = max(self._floor_ns, forgotten[-1].by_ns + self._skew_ns)
            del self._changes[oldest]

    def oldest(self, key: Key, present: Value) -> Value | None:
        """Return the first value that is known of a key; None if that was forgotten."""
        known = self._changes.get(key)
        before = known[0].before if known else present
        return None if before is _UNKNOWN else before  # type: ignore[return-value]  # a Value

    def forget_all(self, now: int) -> None:
        """Take every value before ``now`` for unknown."""
        self._floor_ns = self.latest_ns = now + self._skew_ns

    def forget(self, key: Key) -> None:
        """Forget a key that will not be asked for any more."""
        self._changes.pop(key, None)

    def since_ns(self, key: Key) -> int:
        """Return the moment from which the present value surely holds."""
        known = self._changes.get(key)
        return self._floor_ns if known is None else max(self._floor_ns, known[-1].by_ns + self._skew_ns)

    def at(self, key: Key, at_ns: int, present: Value) -> PossibleValues[Value]:
        """Return which values a key may have had at a moment; ``present`` is its value now."""
        known, floor = self._changes.get(key), self._floor_ns
        if at_ns < floor:
            return PossibleValues((), -FOREVER, floor)
        if known is None:
            return PossibleValues((present,), floor, FOREVER)
        possible: list[object] = []
        begins_ns = since = floor
        until = FOREVER
        for change in (*known, _Change(present, FOREVER, FOREVER)):
            ends_ns = FOREVER if change.by_ns == FOREVER else change.by_ns + self._skew_ns
            if begins_ns <= at_ns < ends_ns and change.before not in possible:
                possible.append(change.before)
            for turn in (begins_ns, ends_ns):
                if turn <= at_ns:
                    since = max(since, turn)
                else:
                    until = min(until, turn)
            begins_ns = change.after_ns - self._skew_ns
        values = () if _UNKNOWN in possible else tuple(possible)
        return PossibleValues(values, since, until)  # type: ignore[arg-type]  # Values

    def evict(self, now: int) -> list[Key]:
        """Forget the values that ended longer ago than the retention, and the oldest ones that there is no room for.
        Return their keys."""
        limit = now - self._tail_ns
        evicted = []
        while self._ages and (self._ages[0][0] < limit or len(self._ages) > self._limit):
            noted, key = self._ages.popleft()
            known = self._changes.get(key, ())
            left = tuple(one for one in known if one.by_ns >= max(limit, noted + 1))
            last = known[-len(left) - 1] if len(left) < len(known) else None
            if last is not None and last.before is not _UNKNOWN:
                self._changes[key] = (last._replace(before=_UNKNOWN), *left)
                evicted.append(key)
        return evicted


def _by(change: _Change) -> int:
    return change.by_ns
