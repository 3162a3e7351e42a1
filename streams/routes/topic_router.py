"""Which records go to which topics, with which keys: the Kafka outputs of all routes. Values only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from enrich.render.enricher import Records
from enrich.wire.topics import LARGE, Topic
from streams.config.fields import seconds
from streams.kafka.record_columns import RecordColumns
from streams.matching.matcher import pattern_test
from streams.matching.model import as_list
from streams.routes.check import NAMESPACE
from streams.routes.classifier import Classifier
from streams.routes.model import Kafka, Routes

Indexes = Sequence[int]
_MOST: Final = 500_000
"""Bytes of JSON lines in one record; a broker takes a million by default."""


@dataclass(frozen=True, slots=True)
class Sending:
    """Records for one topic, in the order of their rows."""

    topic: Topic
    compression: str
    records: RecordColumns


class Placing:
    """The routes of one file. Not thread safe."""

    def __init__(
        self,
        routes: Routes,
        reserved: Collection[str],
        existing: Collection[str],
        count: Callable[[str, str, int], None],
    ) -> None:
        """``reserved``: topics that no route may write. ``existing``: those that are there. ``count`` is told route,
        outcome and number of records: routed, or why one has no topic."""
        self._count = count
        self._classifier = Classifier([route.matcher() for route in routes.routes])
        self._outputs = [
            (np.uint64(1 << bit), route.name, _Target(output.kafka, reserved, existing))
            for bit, route in enumerate(routes.routes)
            for output in route.outputs
            if output.kafka is not None
        ]

    def topics(self) -> Iterator[Topic]:
        """Those that can be made before the first record comes."""
        for _, _, target in self._outputs:
            if target.fixed is not None:
                yield target.fixed

    def of(self, records: Records) -> Iterator[Sending]:
        """What the routes send."""
        if not self._outputs:
            return
        masks = self._classifier.masks(records)
        every = int(np.bitwise_or.reduce(masks))
        for bit, name, target in self._outputs:
            if not every & int(bit):
                continue
            chosen = np.flatnonzero(masks & bit).tolist()
            for topic, indexes in target.split(records, chosen):
                if isinstance(topic, str):
                    self._count(name, topic, len(indexes))
                else:
                    self._count(name, "routed", len(indexes))
                    yield Sending(topic, target.compression, target.outgoing(records, indexes))


class _Target:
    """One Kafka output."""

    def __init__(self, kafka: Kafka, reserved: Collection[str], existing: Collection[str]) -> None:
        self.compression = kafka.compression
        self._kafka, self._reserved = kafka, reserved
        self.fixed = None if NAMESPACE in kafka.topic else self._topic(kafka.topic)
        self._allowed = pattern_test(as_list(kafka.namespaces))
        before, _, after = kafka.topic.partition(NAMESPACE)
        self._made = {
            name for name in existing if self.fixed is None and name.startswith(before) and name.endswith(after)
            and self._allowed(name[len(before) : len(name) - len(after)])
        }  # fmt: skip
        self._by_namespace: dict[str, Topic | str] = {}
        key = kafka.key or ("pod" if kafka.format == "record" else "node")
        self._keys: Callable[[Records, Indexes], Sequence[bytes | None]] = _KEYS[key]

    def split(self, records: Records, chosen: Indexes) -> Iterable[tuple[Topic | str, Indexes]]:
        """By topic; text in its place says why there is none."""
        if self.fixed is not None:
            return [(self.fixed, chosen)]
        found: defaultdict[str, list[int]] = defaultdict(list)
        keys = records.keys
        for index in chosen:
            found[_namespace(keys[index])].append(index)
        return [(self._of(namespace), indexes) for namespace, indexes in found.items()]

    def outgoing(self, records: Records, indexes: Indexes) -> RecordColumns:
        """Their Kafka records."""
        if self._kafka.format == "lines":
            columns = list(zip(*self._lines(records, indexes), strict=True))
            return RecordColumns(*columns)
        values, times, owners = records.values, records.times_ms, records.owners
        return RecordColumns(
            self._keys(records, indexes),
            [values[index] for index in indexes],
            [times[index] for index in indexes],
            [owners[index] for index in indexes],
        )

    def _lines(self, records: Records, indexes: Indexes) -> Iterator[tuple[bytes | None, bytes, int, int]]:
        """Key, value, milliseconds and owner: what is in one record has one of each."""
        by_key: defaultdict[tuple[int, bytes | None], list[int]] = defaultdict(list)
        for index, key in zip(indexes, self._keys(records, indexes), strict=True):
            by_key[records.owners[index], key].append(index)
        for (owner, key), members in by_key.items():
            lines: list[bytes] = []
            size, at = 0, records.times_ms[members[0]]
            for index in members:
                value = records.values[index]
                if lines and size + len(value) > _MOST:
                    yield key, b"\n".join(lines), at, owner
                    lines, size, at = [], 0, records.times_ms[index]
                lines.append(value)
                size += len(value) + 1
            yield key, b"\n".join(lines), at, owner

    def _of(self, namespace: str) -> Topic | str:
        known = self._by_namespace.get(namespace)
        if known is None:
            known = self._find(namespace)
            if len(self._by_namespace) < 10_000:
                self._by_namespace[namespace] = known
        return known

    def _find(self, namespace: str) -> Topic | str:
        if not namespace:
            return "no_namespace"
        name = self._kafka.topic.replace(NAMESPACE, namespace)
        if not self._allowed(namespace) or name in self._reserved:
            return "not_allowed"
        if name not in self._made and len(self._made) >= self._kafka.limit:
            return "limit"
        self._made.add(name)
        return self._topic(name)

    def _topic(self, name: str) -> Topic:
        config = {"cleanup.policy": "delete", "retention.ms": str(seconds(self._kafka.retention) * 1000)}
        if self._kafka.format == "lines":
            config["max.message.bytes"] = LARGE
        return Topic(name, self._kafka.partitions, config)


def _namespace(key: bytes) -> str:
    """Of a record's key: the local pod's; none where only its node is known."""
    namespace, slash, _ = key.partition(b"/")
    return namespace.decode() if slash else ""


def _pods(records: Records, indexes: Indexes) -> Sequence[bytes]:
    keys = records.keys
    return [keys[index] for index in indexes]


def _nodes(records: Records, indexes: Indexes) -> Sequence[bytes]:
    nodes = [header.node.encode() for header in records.columns.batch.headers] if records.columns is not None else []
    owners = records.owners
    return [nodes[owners[index]] for index in indexes]


_KEYS: Final[dict[str, Callable[[Records, Indexes], Sequence[bytes | None]]]] = {
    "pod": _pods,
    "namespace": lambda records, indexes: [key.partition(b"/")[0] for key in _pods(records, indexes)],
    "node": _nodes,
    "none": lambda _, indexes: [None] * len(indexes),
}
