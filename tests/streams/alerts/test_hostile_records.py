"""Deltas, states and flows that the alerts role did not write: refused one by one, and the rest goes on."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
import orjson
import structlog.testing
from hypothesis import given

from streams.alerts.counting import RecordCounter
from streams.alerts.deltas import Delta, decode, encode, version_of
from streams.alerts.engine import Engine
from streams.alerts.engine_loop import EngineLoop
from streams.kafka.records import Record
from tests.streams.alerts.makers import T0, flow, loss, rule
from tests.streams.alerts.test_engine_loop import Rules, Transactions
from tests.streams.worker.test_hostile_records import altered

RULES = (
    rule(name="above", above={"threshold": 1}),
    rule(name="distinct", above={"threshold": 1, "distinct": ["dest.ip"]}),
    rule(name="first", first={}),
    rule(name="change", after_change={}),
)
AHEAD = 4_000_000_000
"""After the clock of the loop, which reads the real one: the window of a rule has not passed."""
DELTAS = msgspec.to_builtins(
    {
        "v": 1,
        "deltas": [
            Delta(one.name, version_of(one), ["c1", "shop"], {AHEAD: 1}, {5: AHEAD}, [], ["p"], "shop") for one in RULES
        ],
    },
    str_keys=True,
)


def engine_loop(state: list[Record], bad: list[str], limit: int = 10) -> EngineLoop:
    loop = EngineLoop(
        Rules(*RULES), ("alerts", "state", "status"), 1, "w1", lambda found: Engine(found, limit, lambda *_: None),
        lambda _: state, Counter, lambda _record, error: bad.append(error),
    )  # fmt: skip
    loop.on_assigned([("deltas", 0)])
    return loop


@given(altered(DELTAS))
def test_deltas_that_were_altered_are_counted_or_refused_and_the_next_ones_count(value: bytes) -> None:
    bad: list[str] = []
    good = rule(name="above", above={"threshold": 1})
    ((_, later),) = encode([Delta(good.name, version_of(good), ["c1", "x"][: len(good.fields)], {AHEAD: 1})], 1)
    transactions = Transactions(value, later)
    engine_loop([], bad).step(transactions)
    assert len(bad) <= 1
    assert any(write.topic == "alerts" for commit in transactions.commits for write in commit)


def stored_states() -> list[tuple[bytes, bytes]]:
    """The states of groups that the engine writes when each rule's group fires or is known."""
    transactions = Transactions(orjson.dumps(DELTAS))
    with structlog.testing.capture_logs():  # this runs at import, also in each process of `make hunt`
        engine_loop([], []).step(transactions)
    written = [write for commit in transactions.commits for write in commit if write.topic == "state"]
    return [(one.key or b"", one.value or b"") for one in written if not (one.key or b"").startswith(b"learn/")]


STATES = stored_states()


def test_the_states_that_are_altered_are_those_of_alerts_that_fire() -> None:
    states = [orjson.loads(value) for _, value in STATES]
    assert {one["rule"]: one["status"] for one in states} == dict.fromkeys(("above", "distinct", "first"), "firing")


@given(altered(orjson.loads(STATES[0][1])))
def test_a_state_that_was_altered_is_used_or_ignored_and_the_engine_works(value: bytes) -> None:
    loop = engine_loop([Record(0, 0, STATES[0][0], value, 0), Record(0, 1, b"change/x", value, 0)], [])
    loop.engine.tick(T0 + 10)
    loop.engine.tick(T0 + 10_000_000)
    loop.step(Transactions(orjson.dumps(DELTAS)))


@given(altered(flow()))
def test_a_flow_that_was_altered_is_counted_in_deltas_that_the_engine_takes(value: bytes) -> None:
    counter = RecordCounter(RULES)
    try:
        counter.count_flow(counter.read_flow(value))
    except ValueError:
        return
    for _, encoded in encode(counter.drain(), 1):
        assert decode(encoded)


@given(altered(loss()))
def test_a_loss_that_was_altered_is_counted_in_deltas_that_the_engine_takes(value: bytes) -> None:
    counter = RecordCounter([rule(name="lost", of="lost", group_by=["node"], above={"threshold": 1})])
    try:
        counter.count_status(value)
    except ValueError:
        return
    for _, encoded in encode(counter.drain(), 1):
        assert decode(encoded)


def test_amounts_never_leave_what_the_engine_can_add() -> None:
    counter = RecordCounter([rule(name="lost", of="lost", group_by=["node"], above={"threshold": 1})])
    for _ in range(3):
        counter.count_status(orjson.dumps(loss(verdicts=(1 << 63) - 1)))
    (delta,) = counter.drain()
    assert math.log2(max(delta.amounts.values())) == 40


def made(**fields: Any) -> bytes:
    return orjson.dumps({**flow(), **fields})


def test_a_value_with_nul_is_one_value_of_its_group() -> None:
    counter = RecordCounter(RULES)
    src = {**flow()["src"], "workload_name": "we\0b"}
    counter.count_flow(counter.read_flow(made(src=src)))
    assert all("\0" not in value for delta in counter.drain() for value in delta.group)
