"""The count loop's core: flow and status records in, deltas out.

THEORY OF OPERATION

Example: a rule groups by ``src.name`` and ``port``, and 10,000 denied connections a second arrive from one scanner.

1. :meth:`RecordCounter.read_flow` decodes the outline of a record and looks its key up. Records that differ only in the
   source port, times, count and id share a key, and so a :class:`RecordClass`.
2. For a new key the whole record is decoded and every rule is evaluated once: does it match, and under which group and
   distinct value does it count? The answer is the record class, kept for the next records of the key.
3. :meth:`RecordCounter.count_flow` adds the record's count to the delta of each group, in the second of the record's
   last packet.
4. :meth:`RecordCounter.drain` returns the deltas: for the scanner one per port, with a few seconds each, however many
   records there were.

A record that was delivered twice has the same id. :class:`streams.alerts.deduplicate.Deduplicator` recognizes it
without remembering every id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from enrich.wire.flow import Flow, decode_flow
from enrich.wire.flow_outline import FlowKey, decode_outline
from streams.alerts.deltas import MAX_AMOUNT, MAX_VALUE_LENGTH, Delta, value_hash, version_of
from streams.alerts.example import shorten
from streams.alerts.fields import LOSS_FIELDS, StatusRecord, flow_field, policy_names
from streams.alerts.model import AlertRule
from streams.matching.matcher import Matcher

MAX_EXAMPLES: Final = 3
_MAX_RECORD_BYTES: Final = 128 << 10
"""Larger records are refused: three of them, shortened, go into one record of the deltas as examples."""
_MAX_NUMBER_DIGITS: Final = 19
_MAX_DISTINCT_PER_DELTA: Final = 1000
_MAX_CLASSES: Final = 10_000
_MAX_TIMES: Final = 10_000
_STATUS_DECODER: Final = msgspec.json.Decoder(StatusRecord)
R = TypeVar("R", Flow, StatusRecord)


class _GroupCounter(Generic[R]):
    """Counts what one rule counts, by group."""

    def __init__(self, rule: AlertRule, field: Callable[[str], Callable[[R], str] | None]) -> None:
        """``field`` returns the function that reads a field, as the check of the file ensures for every field."""
        above = rule.above
        self._rule, self._version = rule.name, version_of(rule)
        self._fields: list[Callable[[R], str]] = [_reader(field, name) for name in rule.fields]
        self._distinct: list[Callable[[R], str]] = [_reader(field, name) for name in above.distinct] if above else []
        self._count_records = above is not None and above.count == "records"
        self._deltas: dict[tuple[str, ...], Delta] = {}

    def group_of(self, record: R) -> tuple[str, ...]:
        """Return the group under which the rule counts a record."""
        # The engine joins the values of a group with NUL.
        return tuple([read(record)[:MAX_VALUE_LENGTH].replace("\0", "") for read in self._fields])

    def value_of(self, record: R) -> int | None:
        """Return the hash of the distinct value; None if the rule counts amounts, or the record lacks a part of it."""
        values = [read(record) for read in self._distinct]
        # A flood is reported without addresses and ports, so it does not say how many there were.
        return value_hash("\0".join(values)) if values and all(values) else None

    def add(self, group: tuple[str, ...], value: int | None, second: int, amount: int) -> Delta:
        """Count a record, and return the delta of its group."""
        delta = self._deltas.get(group)
        if delta is None:
            delta = self._deltas[group] = Delta(self._rule, self._version, list(group), {}, {}, [])
        amounts = delta.amounts
        amounts[second] = min(amounts.get(second, 0) + (1 if self._count_records else amount), MAX_AMOUNT)
        if value is not None and len(delta.distinct) < _MAX_DISTINCT_PER_DELTA:
            delta.distinct[value] = max(second, delta.distinct.get(value, 0))
        return delta

    def drain(self) -> Iterator[Delta]:
        """Return the deltas since the last drain."""
        deltas, self._deltas = self._deltas, {}
        return iter(deltas.values())


class _DeniedRule:
    """A rule that counts flow records."""

    def __init__(self, rule: AlertRule) -> None:
        self.counter = _GroupCounter(rule, flow_field)
        self.matches = Matcher(rule.name, rule.match, rule.excluded).fits
        self.after_change = rule.after_change is not None


class RuleMatch(NamedTuple):
    """One rule that counts a class of records."""

    counter: _GroupCounter[Flow]
    group: tuple[str, ...]
    value: int | None
    """The hash of the distinct value, for rules that count them."""
    policies: list[str] | None
    """The policies that the records name, for after_change rules."""
    namespace: str
    """The subject's namespace, for after_change rules."""


class RecordClass(NamedTuple):
    """What all records with the same key have in common."""

    pod_uid: str
    """The UID of the subject; empty if it is not known."""
    cluster: str
    matches: tuple[RuleMatch, ...]


class ParsedFlow(NamedTuple):
    """A flow record of a denied or audited connection, as far as counting needs it."""

    record_class: RecordClass
    ring: str
    """The first part of the id."""
    number: int
    """The second part of the id."""
    second: int
    amount: int
    value: bytes


class RecordCounter:
    """Counts records for rules, and returns what was counted since it was last drained."""

    def __init__(self, rules: Sequence[AlertRule]) -> None:
        self._denied = [_DeniedRule(rule) for rule in rules if rule.of == "denied"]
        self._lost = [_GroupCounter(rule, LOSS_FIELDS.get) for rule in rules if rule.of == "lost"]
        self._seconds: dict[str, int] = {}
        self._classes: dict[FlowKey, RecordClass] = {}

    def read_flow(self, value: bytes) -> ParsedFlow:
        """Parse a flow record. Raises ValueError."""
        if len(value) > _MAX_RECORD_BYTES:
            raise ValueError(f"the record has {len(value)} bytes, and no flow record has more than {_MAX_RECORD_BYTES}")
        outline = decode_outline(value)
        key = outline.key
        record_class = self._classes.get(key)
        if record_class is None:
            record_class = self._classify(value)
            if len(self._classes) >= _MAX_CLASSES:
                self._classes.clear()
            self._classes[key] = record_class
        ring, _, number = outline.id.rpartition("-")
        if not (number.isascii() and number.isdigit() and len(number) <= _MAX_NUMBER_DIGITS):
            raise ValueError(f"the id {outline.id[:80]!r} does not end in a number")
        # The last packet's time: a flow's count is reported when its window ends, which is nearest to its arrival.
        second = self._second(outline.last_timestamp)
        return ParsedFlow(record_class, ring, int(number), second, outline.count, value)

    def count_flow(self, flow: ParsedFlow) -> None:
        """Count a record that :meth:`read_flow` of this counter returned."""
        example: msgspec.Raw | None = None
        for counter, group, value, policies, namespace in flow.record_class.matches:
            delta = counter.add(group, value, flow.second, flow.amount)
            if len(delta.examples) < MAX_EXAMPLES:
                if example is None:
                    example = shorten(flow.value)
                delta.examples.append(example)
            if policies is not None:
                delta.policies, delta.namespace, delta.by_cluster = policies, namespace, True

    def count_status(self, value: bytes) -> None:
        """Count a record of the status topic if it reports a loss. Raises ValueError."""
        try:
            status = _STATUS_DECODER.decode(value)
        except RecursionError as error:
            raise ValueError("the value is nested too deeply") from error
        lost = status.amount_lost()
        if lost is None:
            return
        second = self._second(status.timestamp)
        for counter in self._lost:
            counter.add(counter.group_of(status), None, second, lost)

    def drain(self) -> list[Delta]:
        """Return the deltas since the last drain."""
        denied = [delta for rule in self._denied for delta in rule.counter.drain()]
        return [*denied, *(delta for counter in self._lost for delta in counter.drain())]

    def _classify(self, value: bytes) -> RecordClass:
        """Evaluate every rule for the records with the same key as this one."""
        flow = decode_flow(value)
        matches = []
        for rule in self._denied:
            if rule.matches(flow):
                counter = rule.counter
                policies = policy_names(flow) if rule.after_change else None
                matches.append(
                    RuleMatch(counter, counter.group_of(flow), counter.value_of(flow), policies, flow.subject.namespace)
                )
        return RecordClass(flow.subject.pod_uid, flow.cluster, tuple(matches))

    def _second(self, timestamp: str) -> int:
        """Return the second since the epoch of an RFC 3339 time in UTC. Raises ValueError."""
        text = timestamp[:19]
        second = self._seconds.get(text)
        if second is None:
            if len(self._seconds) >= _MAX_TIMES:
                self._seconds.clear()
            second = int(datetime.fromisoformat(f"{text}+00:00").timestamp())
            if second < 0:
                raise ValueError(f"the time {text} is before 1970")
            self._seconds[text] = second
        return second


def _reader(field: Callable[[str], Callable[[R], str] | None], name: str) -> Callable[[R], str]:
    found = field(name)
    assert found is not None  # noqa: S101 - streams.alerts.check refuses unknown fields
    return found
