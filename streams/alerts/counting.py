"""Records in, deltas out: which rules a record counts for, and under which group. Values only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import orjson

from streams.alerts.deltas import Delta, hash_of, version_of
from streams.alerts.fields import LOSS_FIELDS, Read, flow_field, policy_refs
from streams.alerts.model import Rule
from streams.filters import Flow
from streams.routes.match import Matcher
from streams.routes.model import Route

EXAMPLES: Final = 3
_LOSSES: Final = {"gap": "rows", "lost": "rows", "expired": "batches", "alerts_dropped": "groups"}
"""Types of status records that tell a loss, and where they say how much."""
_LONGEST_VALUE: Final = 256
_MOST_DISTINCT: Final = 1000
_SHOWN: Final = (
    "id",
    "timestamp",
    "connection",
    "disposition",
    "reason",
    "policies",
    "isolated_by",
    "count",
    "dialled",
)
_SHOWN_END: Final = ("namespace", "pod_name", "workload_kind", "workload_name", "node_name", "instance", "service")


class Counter:
    """The counts of some rules since they were last drained."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._denied = [_Counted(rule, flow_field) for rule in rules if rule.of == "denied"]
        self._lost = [_Counted(rule, LOSS_FIELDS.get) for rule in rules if rule.of == "lost"]
        self._seconds: dict[str, int] = {}

    def flow(self, flow: Flow) -> None:
        """A record of a denied or audited connection. Raises ValueError for what is none."""
        try:
            # Nearer to when it comes than the first packet's: a count may come out a window later.
            second, amount = self._second(flow["last_timestamp"]), flow["count"]
            for counted in self._denied:
                counted.flow(flow, second, amount)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def status(self, told: Flow) -> None:
        """A record of the status topic, of which only losses count. Raises ValueError for what is none."""
        try:
            where = _LOSSES.get(told["type"])
            if where is None:
                return
            second, amount = self._second(told["timestamp"]), told[where]
            for counted in self._lost:
                counted.add(told, second, amount)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def drain(self) -> list[Delta]:
        """What was counted; then nothing is."""
        return [delta for counted in (*self._denied, *self._lost) for delta in counted.drain()]

    def _second(self, stamp: str) -> int:
        """Since the epoch, of an RFC 3339 time in UTC."""
        whole = stamp[:19]
        found = self._seconds.get(whole)
        if found is None:
            if len(self._seconds) > 10_000:
                self._seconds.clear()
            found = self._seconds[whole] = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
        return found


class _Counted:
    """One rule."""

    def __init__(self, rule: Rule, read: Callable[[str], Read | None]) -> None:
        self._rule, self._version = rule.name, version_of(rule)
        matcher = Matcher(Route(name=rule.name, outputs=[], match=rule.match, excluded=rule.excluded))
        self._fits = matcher.fits
        self._fields = [_known(read, name) for name in rule.fields]
        above = rule.above
        self._distinct = [_known(read, name) for name in above.distinct] if above else []
        self._each = above is not None and above.count == "records"
        self._about_changes = rule.after_change is not None
        self._deltas: dict[tuple[str, ...], Delta] = {}

    def flow(self, flow: Flow, second: int, amount: int) -> None:
        """A record, if it is one for this rule."""
        if self._fits(flow):
            delta = self.add(flow, second, amount)
            if len(delta.examples) < EXAMPLES:
                delta.examples.append(msgspec.Raw(msgspec.json.encode(_example(flow))))
            if self._about_changes:
                delta.policies = policy_refs(flow)
                delta.namespace = _subject(flow).get("namespace", "")

    def add(self, record: Flow, second: int, amount: int) -> Delta:
        """Count one."""
        group = tuple([read(record)[:_LONGEST_VALUE] for read in self._fields])
        delta = self._deltas.get(group)
        if delta is None:
            delta = self._deltas[group] = Delta(self._rule, self._version, list(group), {}, {}, [])
        amounts = delta.amounts
        amounts[second] = amounts.get(second, 0) + (1 if self._each else amount)
        if self._distinct:
            values = [read(record) for read in self._distinct]
            # A flood is counted without addresses and ports: it says nothing of how many there were.
            if all(values) and len(delta.distinct) < _MOST_DISTINCT:
                value = hash_of("\0".join(values))
                delta.distinct[value] = max(second, delta.distinct.get(value, 0))
        return delta

    def drain(self) -> Iterator[Delta]:
        """See :meth:`Counter.drain`."""
        deltas, self._deltas = self._deltas, {}
        return iter(deltas.values())


class Repeats:
    """Records that came before, of one partition: numbers of a pod rise, so what does not is a repeat."""

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._last: dict[tuple[str, str], int] = {}
        self._ids: dict[str, None] = {}

    def is_one(self, flow: Flow) -> bool:
        """Whether this record came before; from now on it did."""
        ring, _, number = flow["id"].rpartition("-")
        uid = _subject(flow).get("pod_uid")
        if uid is None:
            known = flow["id"] in self._ids
            self._ids[flow["id"]] = None
            _shrink(self._ids, self._most)
            return known
        pod = (ring, uid)
        last = self._last.pop(pod, -1)
        self._last[pod] = max(last, int(number))
        _shrink(self._last, self._most)
        return int(number) <= last


def parse(value: bytes) -> Flow:
    """A record as JSON. Raises ValueError."""
    found = orjson.loads(value)
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 - whatever it is, it is no record
    return found


def _shrink(kept: dict[Any, Any], most: int) -> None:
    """The ones that were there for longest go."""
    if len(kept) > most:
        for key in list(kept)[: most // 10]:
            del kept[key]


def _known(read: Callable[[str], Read | None], name: str) -> Read:
    found = read(name)
    assert found is not None  # noqa: S101 - the file was checked
    return found


def _subject(flow: Flow) -> dict[str, Any]:
    found: dict[str, Any] = flow["dest" if flow["connection"]["direction"] == "ingress" else "src"]
    return found


def _example(flow: Flow) -> dict[str, Any]:
    """A record, cut down to what people look for."""
    shown = {name: flow[name] for name in _SHOWN if name in flow}
    ends = {side: {name: flow[side][name] for name in _SHOWN_END if name in flow[side]} for side in ("src", "dest")}
    return {**shown, **ends}
