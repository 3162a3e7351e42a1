"""The engine loop without Kafka: what it writes in a transaction, and when."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from streams.alerts import engine_loop as engine_loop_module
from streams.alerts.deltas import Delta, encode, version_of
from streams.alerts.engine import Engine
from streams.alerts.engine_loop import EngineLoop
from streams.alerts.model import AlertRule
from streams.alerts.policy_changes import PolicyChange
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


def after_change_loop(counts: Counter[tuple[str, str]]) -> EngineLoop:
    def count(name: str, what: str, number: int) -> None:
        counts[name, what] += number

    return EngineLoop(
        Rules(rule(after_change={})), ("alerts", "state", "status"), 1, "w1",
        lambda found: Engine(found, 10, count), lambda _: [], Counter, lambda *_: None,
    )  # fmt: skip


def change(name: str, at: float) -> PolicyChange:
    return PolicyChange(f"NetworkPolicy shop/{name}", "updated", at)


def test_a_worker_without_partitions_keeps_a_bounded_number_of_changes_for_when_it_gets_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_loop_module, "_MAX_CHANGES", 5)
    counts = Counter[tuple[str, str]]()
    loop, transactions, now = after_change_loop(counts), Transactions(), time.time()
    for number in range(20):
        loop.add_policy_change(change(f"p{number}", now))
        loop.step(transactions)
    assert transactions.commits == []
    loop.on_assigned([("deltas", 0)])
    loop.step(transactions)
    keys = [write.key or b"" for write in transactions.commits[0]]
    assert keys == [f"change/NetworkPolicy shop/p{number}".encode() for number in range(15, 20)]
    assert counts["one", "evicted_changes"] == 15


def test_stored_changes_have_a_bound_and_the_oldest_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_loop_module, "_MAX_CHANGES", 2)
    loop, transactions, now = after_change_loop(Counter()), Transactions(), time.time()
    loop.on_assigned([("deltas", 0)])
    for name in ("a", "b", "c"):
        loop.add_policy_change(change(name, now))
        loop.step(transactions)
    last = [(write.key, write.value is None) for write in transactions.commits[-1]]
    assert last == [(b"change/NetworkPolicy shop/c", False), (b"change/NetworkPolicy shop/a", True)]


def test_a_change_that_is_too_old_when_the_worker_gets_partitions_is_forgotten() -> None:
    loop, transactions = after_change_loop(Counter()), Transactions()
    loop.add_policy_change(change("old", 1.0))
    loop.on_assigned([("deltas", 0)])
    loop.step(transactions)
    assert transactions.commits == []
