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


def learning_loop(state: list[Record], assigned: Sequence[int]) -> EngineLoop:
    loop = EngineLoop(
        Rules(rule(group_by=["src.name"], first={})), ("alerts", "state", "status"), 4, "w1",
        lambda found: Engine(found, 10, lambda *_: None, learn_s=3600), lambda _: state, Counter, lambda *_: None,
    )  # fmt: skip
    loop.on_assigned([("deltas", partition) for partition in assigned])
    return loop


def test_when_a_rule_began_to_learn_is_stored_in_every_partition_and_found_again() -> None:
    transactions = Transactions()
    learning_loop([], (0, 1)).step(transactions)
    ((first, second),) = transactions.commits
    assert (first.key, first.partition, second.partition, first.value) == (b"learn/one", 0, 1, second.value)
    since = orjson.loads(first.value or b"")["since"]
    # Another worker takes one of them over, and one that has nothing yet.
    state = [Record(0, 0, b"learn/one", first.value or b"", 0), Record(3, 0, b"learn/one", b"junk", 0)]
    loop, transactions = learning_loop(state, (0, 3)), Transactions()
    loop.step(transactions)
    ((write,),) = transactions.commits
    assert (write.partition, orjson.loads(write.value or b"")["since"]) == (3, since)
