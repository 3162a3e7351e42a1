"""Reads which alerts fire, from the state that the role `alerts` keeps on Kafka.

The topic of states has the latest state of each group of a rule; a group without one has no alert. It is compacted, so
that an alert that fires for months is still there. The first read takes the whole topic, later ones what is new in it.
Now and then the whole is read again: what was deleted long ago has left no trace in the topic, and somebody may have
made the topic again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final, Literal

import msgspec

from enrich.model import NetworkPolicy
from enrich.wire.bounds import is_namespace
from enrich.wire.whose import is_foreign
from streams.alerts.alert import AlertState
from streams.alerts.deltas import MAX_VALUE_LENGTH, fingerprint
from streams.kafka.connection import Connection, NoTopicError, ReadError
from streams.kafka.consumer_groups import group_names, others_of
from streams.kafka.reading import TopicReader
from streams.kafka.reading_limit import reading_within
from streams.kafka.records import Record
from streams.settings import Settings

Role = Literal["running", "stopped", "absent", "unknown"]
"""Whether the role `alerts` runs: ``absent`` if it has never run on these topics, ``unknown`` if Kafka does not say."""
_LIMIT_S: Final = 20.0
_LIMIT_BYTES: Final = 256 << 20
_WHOLE_S: Final = 600.0
"""How long only new states are read. Kafka keeps the mark of a deleted one for a day."""
_RECORDS_PER_READ: Final = 5000
_WAIT_S: Final = 0.1
MAX_KEPT: Final = 5_000
"""Alerts that are kept, at most. 64 rules that fire as often as WEIR_ALERT_FIRING lets them by default make 3,264."""
_MAX_KEPT_BYTES: Final = 32 << 20
"""Bytes of the states of alerts that are kept, at most: 3,264 have 10 MiB. What is kept of one takes a few times as
much memory."""
_MAX_TEXT: Final = 1000
_MAX_FIELDS: Final = 16
_MAX_KEY: Final = 1000
_MAX_PAIRS: Final = 100
"""Characters of a text, and fields of a group, that are kept; bytes of a key, and pairs of an alert, that are looked
at: a worker writes fewer. Whoever may write the state chooses them."""
_ENDS: Final = ("subject", "peer", "src", "dest")


class FiringAlert(msgspec.Struct, frozen=True):
    """An alert that fires, as far as the page shows it."""

    rule: str
    severity: str
    cluster: str
    group: dict[str, str]
    """What the alert is about, by the names of its rule's fields."""
    summary: str
    description: str
    started: str
    count: int
    policy: str
    change: str
    changed_by: str
    digest: bool
    """Whether it stands for further groups, which are more than may fire."""


class Named(msgspec.Struct, frozen=True):
    """An alert, and whom it names."""

    alert: FiringAlert
    places: tuple[tuple[str, ...], ...]
    """The namespaces that it names: of each pair of ends, or other place, one tuple. Empty if it names none."""


class Firing(msgspec.Struct, frozen=True):
    """What fires."""

    alerts: list[Named]
    role: Role
    left_out: int = 0
    """Alerts beyond those that are kept."""


class FiringAlerts:
    """Knows which alerts fire. One thread may call it at a time."""

    def __init__(self, settings: Settings, connection: Callable[[], Connection]) -> None:
        self._settings, self._connection = settings, connection
        self._next: dict[int, int] = {}
        """The offset behind the last state that was read, by partition."""
        self._found: dict[tuple[int, bytes], Named] = {}
        self._sizes: dict[tuple[int, bytes], int] = {}
        self._bytes = 0
        self._left_out: set[tuple[int, bytes]] = set()
        self._whole_at = 0.0

    def read(self) -> Firing:
        """Return what fires now. Raises ReadError."""
        with reading_within(_LIMIT_S, _LIMIT_BYTES):
            try:
                reader = TopicReader(self._connection(), self._settings.topics.alert_state.name)
            except NoTopicError:
                self._forget()
                return Firing([], "absent")
            try:
                self._catch_up(reader)
            finally:
                reader.close()
        return Firing(list(self._found.values()), self._role(), len(self._left_out))

    def _forget(self) -> None:
        self._next, self._whole_at = {}, time.monotonic()
        self._found.clear()
        self._sizes.clear()
        self._bytes = 0
        self._left_out.clear()

    def _catch_up(self, reader: TopicReader) -> None:
        """Read to the end of the topic. If that takes too long, the next call goes on. Raises ReadError."""
        bounds = reader.bounds()
        is_known = self._next.keys() == bounds.keys() and all(
            first <= self._next[one] <= end for one, (first, end) in bounds.items()
        )
        if not is_known or time.monotonic() - self._whole_at > _WHOLE_S:
            self._forget()
            self._next = {one: first for one, (first, _) in bounds.items()}
        reader.start(self._next)
        while not reader.ended() >= bounds.keys():
            for record in reader.take(_RECORDS_PER_READ, _WAIT_S):
                self._take(record)
                self._next[record.partition] = record.offset + 1

    def _take(self, record: Record) -> None:
        key = record.partition, record.key
        self._found.pop(key, None)
        self._bytes -= self._sizes.pop(key, 0)
        self._left_out.discard(key)
        found = named_alert(record.key, record.value, self._settings.cluster)
        if found is None:
            return
        size = len(record.value or b"")
        if len(self._found) < MAX_KEPT and self._bytes + size <= _MAX_KEPT_BYTES:
            self._found[key], self._sizes[key] = found, size
            self._bytes += size
        elif len(self._left_out) < MAX_KEPT:
            self._left_out.add(key)

    def _role(self) -> Role:
        """Return whether somebody decides what fires: what was so when the last worker ended may be over."""
        settings = self._settings
        if settings.cluster:
            groups = [settings.group("alerts.engine")]
        else:
            try:
                found = group_names(self._connection(), f"{settings.prefix}.")
            except ReadError:
                return "unknown"
            groups = [one for one in found if one.endswith(".alerts.engine")]
        members = [others_of(self._connection(), one, "") for one in groups]
        if any(members):
            return "running"
        # Without the right to see a group, Kafka leaves it out of its list.
        return "unknown" if None in members or not members else "stopped"


def named_alert(key: bytes, value: bytes | None, cluster: str) -> Named | None:
    """Return the alert of a state; None if none fires there, if it is another cluster's, or if it cannot be read."""
    if not value or len(key) > _MAX_KEY:
        return None
    try:
        state = msgspec.json.decode(value, type=AlertState)
    except (ValueError, RecursionError):
        return None  # a change of a policy, what a rule has learned, or what somebody else wrote
    if state.status != "firing" or key != f"{state.rule}/{fingerprint(state.rule, state.group)}".encode():
        return None
    record: Mapping[str, Any] = state.record or {}
    group = _group(record.get("group"))
    of = group.get("cluster", "")
    if is_foreign(of, cluster) or (state.group and is_foreign(state.group[0], cluster)):
        return None
    annotations, count = record.get("annotations"), record.get("count")
    annotations = annotations if isinstance(annotations, dict) else {}
    alert = FiringAlert(
        rule=_text(state.rule), severity=_text(record.get("severity")), cluster=of, group=group,
        summary=_text(annotations.get("summary")), description=_text(annotations.get("description")),
        started=_text(record.get("startsAt")), count=count if isinstance(count, int) else 0,
        policy=_text(record.get("policy")), change=_text(record.get("change")),
        changed_by=_text(record.get("changedBy")), digest=record.get("digest") is True,
    )  # fmt: skip
    return Named(alert, tuple(_places(alert, record.get("pairs"))))


def _text(value: object) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _group(value: object) -> dict[str, str]:
    """Return the fields of a group, as long as a worker writes them."""
    items = value.items() if isinstance(value, dict) else ()
    return {_text(name)[:MAX_VALUE_LENGTH]: _text(text)[:MAX_VALUE_LENGTH] for name, text in islice(items, _MAX_FIELDS)}


def _places(alert: FiringAlert, pairs: object) -> list[tuple[str, ...]]:
    """Return what an alert names. Each of its records has an end in every one of these places.

    One digest stands for groups of which it has no names, and one alert of a change for pairs of any namespaces: the
    policy, if it is one of a namespace, says whose pods are denied."""
    places = [(alert.policy.split()[1].partition("/")[0],)] if _is_of_namespace(alert.policy) else []
    if isinstance(pairs, list):
        # Ten of the pairs are listed. Whose the others are is only known by the policy.
        is_known = bool(places) and len(pairs) <= _MAX_PAIRS
        return [*places, *(_namespaces(_group(one)) for one in pairs)] if is_known else []
    return [*places, *([found] if (found := _namespaces(alert.group)) else [])]


def _is_of_namespace(policy: str) -> bool:
    kind, _, path = policy.partition(" ")
    namespace, _, name = path.partition("/")
    return kind == NetworkPolicy.__name__ and is_namespace(namespace) and bool(name) and " " not in path


def _namespaces(fields: Mapping[str, str]) -> tuple[str, ...]:
    """Return the namespaces that the fields of a group name; ``SIDE.name`` is NAMESPACE/KIND/NAME for a workload."""
    found = [fields.get(f"{end}.namespace", "") for end in _ENDS]
    for end in _ENDS:
        namespace, *rest = fields.get(f"{end}.name", "").split("/")
        found += [namespace] if len(rest) == 2 else []
    return tuple(dict.fromkeys(one for one in found if is_namespace(one)))
