"""Records in, deltas out: which rules a record counts for, and under which group. Values only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from enrich.wire.flow import Flow as FlowRecord
from streams.alerts.deltas import Delta, hash_of, version_of
from streams.alerts.fields import LOSS_FIELDS, Read, flow_field, policy_refs
from streams.alerts.model import Rule
from streams.matching.matcher import Matcher

Flow = Mapping[str, Any]

EXAMPLES: Final = 3
_LOSSES: Final = {"gap": "verdicts", "lost": "verdicts", "expired": "batches", "alerts_dropped": "groups"}
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


# What differs between records of one kind, where the enricher puts it (enrich.render.template). No text that somebody
# chose
# can look so: there are quotes in it that would be escaped there, and numbers without quotes where labels have texts.
_HEAD: Final = re.compile(rb'\{"connection":\{"src_ip":"[^"]*","dest_ip":"[^"]*",("src_port":\d+,)')
_TAIL: Final = re.compile(
    rb',"count":(\d+),"timestamp":"[^"]{30}","last_timestamp":"([^"]{30})"(,"node_name":"[^{}]*)"id":"([^"\\]*)-(\d+)"'
)
_KINDS: Final = 10_000


class Kind(NamedTuple):
    """What all records have in common that differ in ports of the source, in times, counts and ids only."""

    uid: str | None
    """Of the pod whose policy was judged."""
    fits: tuple[tuple[_Counted, tuple[str, ...], int | None, list[str], str], ...]
    """Rules that count them, and under which group and value; policies and namespace for rules about changes."""


class Seen(NamedTuple):
    """A record of a denied or audited connection, as far as it matters."""

    kind: Kind
    ring: str
    number: int
    second: int
    amount: int
    value: bytes


class Counter:
    """The counts of some rules since they were last drained."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._denied = [_Counted(rule, flow_field) for rule in rules if rule.of == "denied"]
        self._lost = [_Counted(rule, LOSS_FIELDS.get) for rule in rules if rule.of == "lost"]
        self._seconds: dict[str, int] = {}
        self._kinds: dict[bytes, Kind] = {}

    def flow(self, flow: Flow) -> None:
        """A record of a denied or audited connection. Raises ValueError for what is none."""
        # By the last packet's time: it is nearer to when the record comes, for a count comes out a window later.
        self.count(self._read(flow))

    def read(self, value: bytes) -> Seen:
        """A record of a denied or audited connection, looked into no further than need be. Raises ValueError."""
        head, tail = _HEAD.match(value), _TAIL.search(value)
        if tail is None:
            return self._read(parse(value))
        cut = (0, 0) if head is None else head.span(1)
        kind_of = b"".join((value[: cut[0]], value[cut[1] : tail.start()], tail[3], value[tail.end() :]))
        kind = self._kinds.get(kind_of)
        if kind is None:
            kind = self._kind(parse(value))
            if len(self._kinds) >= _KINDS:
                self._kinds.clear()
            self._kinds[kind_of] = kind
        return Seen(kind, tail[4].decode(), int(tail[5]), self._second(tail[2].decode()), int(tail[1]), value)

    def count(self, seen: Seen) -> None:
        """Count what was read."""
        example: msgspec.Raw | None = None
        for counted, group, value, policies, namespace in seen.kind.fits:
            delta = counted.more(group, value, seen.second, seen.amount)
            if len(delta.examples) < EXAMPLES:
                if example is None:
                    example = msgspec.Raw(msgspec.json.encode(_example(parse(seen.value))))
                delta.examples.append(example)
            if counted.about_changes:
                delta.policies, delta.namespace = policies, namespace

    def _read(self, flow: Flow) -> Seen:
        try:
            ring, _, number = flow["id"].rpartition("-")
            second, amount = self._second(flow["last_timestamp"]), flow["count"]
            return Seen(self._kind(flow), ring, int(number), second, amount, orjson.dumps(flow))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _kind(self, flow: Flow) -> Kind:
        """What all records have in common that differ in nothing that a rule may look at."""
        try:
            subject = _subject(flow)
            fits = []
            for counted in self._denied:
                if counted.fits(flow):
                    about = counted.about_changes
                    policies = policy_refs(flow) if about else []
                    namespace = subject.get("namespace", "") if about else ""
                    fits.append((counted, counted.group_of(flow), counted.value_of(flow), policies, namespace))
            return Kind(subject.get("pod_uid"), tuple(fits))
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
                counted.more(counted.group_of(told), None, second, amount)
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
        self._matcher = Matcher(rule.name, rule.match, rule.excluded)
        self._fields = [_known(read, name) for name in rule.fields]
        above = rule.above
        self._distinct = [_known(read, name) for name in above.distinct] if above else []
        self._each = above is not None and above.count == "records"
        self.about_changes = rule.after_change is not None
        self._deltas: dict[tuple[str, ...], Delta] = {}

    def fits(self, record: Flow) -> bool:
        """Return whether the rule counts a record."""
        return self._matcher.fits(msgspec.convert(record, FlowRecord))

    def group_of(self, record: Flow) -> tuple[str, ...]:
        """The group of a record that is one for this rule."""
        return tuple([read(record)[:_LONGEST_VALUE] for read in self._fields])

    def value_of(self, record: Flow) -> int | None:
        """Of a rule that counts different values."""
        values = [read(record) for read in self._distinct]
        # A flood is counted without addresses and ports: it says nothing of how many there were.
        return hash_of("\0".join(values)) if values and all(values) else None

    def more(self, group: tuple[str, ...], value: int | None, second: int, amount: int) -> Delta:
        """Count one."""
        delta = self._deltas.get(group)
        if delta is None:
            delta = self._deltas[group] = Delta(self._rule, self._version, list(group), {}, {}, [])
        amounts = delta.amounts
        amounts[second] = amounts.get(second, 0) + (1 if self._each else amount)
        if value is not None and len(delta.distinct) < _MOST_DISTINCT:
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

    def is_one(self, seen: Seen) -> bool:
        """Whether this record came before; from now on it did."""
        if seen.kind.uid is None:
            name = f"{seen.ring}-{seen.number}"
            known = name in self._ids
            self._ids[name] = None
            _shrink(self._ids, self._most)
            return known
        pod = (seen.ring, seen.kind.uid)
        last = self._last.pop(pod, -1)
        self._last[pod] = max(last, seen.number)
        _shrink(self._last, self._most)
        return seen.number <= last


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
