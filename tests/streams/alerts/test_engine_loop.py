"""The engine loop without Kafka: what it writes in a transaction, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from streams.alerts.deltas import Delta, encode, version_of
from streams.alerts.engine import Engine
from streams.alerts.engine_loop import EngineLoop
from streams.alerts.model import AlertRule
from streams.kafka.exactly_once import TransactionAbortedError, Write
from streams.kafka.records import Record
from tests.schemas import load, validator
from tests.streams.alerts.makers import rule


class Rules:
    def __init__(self, *rules: AlertRule) -> None:
        self.current: Sequence[AlertRule] = rules


class Transactions:
    """Hands out the given records once, and notes the commits."""

    def __init__(self, *values: bytes) -> None:
        self._records = [Record(0, offset, b"", value, 0) for offset, value in enumerate(values)]
        self.commits: list[list[Write]] = []

    def take(self, max_records: int, wait_s: float) -> list[Record]:
        del wait_s
        taken, self._records = self._records[:max_records], self._records[max_records:]
        return taken

    def is_replayed(self, record: Record) -> bool:
        del record
        return False

    def commit(self, writes: Sequence[Write]) -> None:
        self.commits.append(list(writes))


def engine_loop(rules: Rules, *reports: Counter[str]) -> EngineLoop:
    evicted = iter(reports)
    loop = EngineLoop(
        rules, ("alerts", "state", "status"), 1, "w1", lambda found: Engine(found, 10, lambda *_: None),
        lambda _: [], lambda: next(evicted, Counter()), lambda *_: None,
    )  # fmt: skip
    loop.on_assigned([("deltas", 0)])
    return loop


def test_evicted_groups_are_reported_as_a_loss_once() -> None:
    loop = engine_loop(Rules(rule(above={"threshold": 1})), Counter({"one": 3}))
    transactions = Transactions()
    loop.step(transactions)
    loop.step(transactions)
    ((write,),) = transactions.commits
    status = orjson.loads(write.value or b"")
    assert (write.topic, status["type"], status["reason"], status["groups"]) == ("status", "alerts_dropped", "one", 3)
    validator(load("status"), closed=True).validate(status)


def test_an_alert_and_its_state_are_written_in_one_transaction() -> None:
    one = rule(above={"threshold": 1})
    loop, now = engine_loop(Rules(one)), 4_000_000_000
    ((_, value),) = encode([Delta(one.name, version_of(one), ["c1", "shop"], {now: 1})], 1)
    transactions = Transactions(value)
    loop.step(transactions)
    (writes,) = transactions.commits
    assert [write.topic for write in writes] == ["alerts", "state"]


def test_changed_rules_abort_so_that_the_state_is_read_again() -> None:
    rules = Rules(rule(above={"threshold": 1}))
    loop = engine_loop(rules)
    rules.current = [rule(above={"threshold": 2})]
    with pytest.raises(TransactionAbortedError, match="the rules have changed"):
        loop.step(Transactions())
