"""Many groups at once: how many alerts fire, what the digest says, and what is kept in memory."""

from __future__ import annotations

from typing import Any

import pytest

from streams.alerts.alert import AlertState
from streams.alerts.deltas import fingerprint
from streams.alerts.engine import Engine
from streams.alerts.model import AlertRule
from streams.alerts.policy_changes import PolicyChange
from streams.alerts.tracker import MAX_FIRING
from tests.streams.alerts.makers import T0, World, flow, rule
from tests.streams.alerts.test_engine import statuses

ABOVE = {"above": {"threshold": 1, "window": "10s"}}
KINDS: list[dict[str, Any]] = [ABOVE, {"first": {}}, {"after_change": {}}]


def pairs(kind: dict[str, Any]) -> AlertRule:
    return rule(
        group_by=["src.name", "dest.name"], resolve_after="30s", annotations={"summary": "{{ src.name }}"}, **kind
    )


def scan(world: World, first: int, count: int) -> None:
    for number in range(first, first + count):
        world.take(flow(world.now, dest=f"data/db{number}"))


def digests(world: World) -> list[dict[str, Any]]:
    return [one for one in world.written if one.get("digest")]


@pytest.mark.parametrize("kind", [ABOVE, {"first": {}}])
def test_a_scan_of_many_fires_few_alerts_and_one_digest(kind: dict[str, Any]) -> None:
    world = World(pairs(kind), limit=100)
    for second in range(100):
        scan(world, second * 20, 20)
        world.wait(1)
    fired = [one for one in world.written if one["status"] == "firing"]
    assert len(fired) <= MAX_FIRING + 1
    (digest,) = digests(world)
    assert digest["labels"]["digest"] == "true"
    assert digest["annotations"]["summary"].startswith("one: ")
    assert (digest["group"]["src.name"], len(digest["examples"])) == ("*", 3)
    assert world.engine.groups()["one"] <= 100
    # Nothing fires by itself before the digest has ended: a scan that goes on makes no more notifications.
    world.wait(20)
    scan(world, 5000, 1)
    assert [one["status"] for one in digests(world)] == ["firing"]
    world.wait(120)
    assert set(world.engine.firing().values()) == {0}
    ended = digests(world)[-1]
    assert (ended["status"], ended["count"]) == ("resolved", 2000 - MAX_FIRING + 1)
    assert statuses(world.written).count("resolved") == len(fired)
    assert [state for state in world.stored.values() if state.status != "known"] == []


def test_an_alert_fires_by_itself_again_when_the_digest_has_ended() -> None:
    world = World(pairs({"first": {}}))
    scan(world, 0, MAX_FIRING + 5)
    world.wait(200)
    before = len(world.written)
    scan(world, 1000, 1)
    assert [one["group"]["dest.name"] for one in world.written[before:]] == ["data/Deployment/db1000"]


def test_a_digest_goes_on_after_a_restart() -> None:
    world = World(pairs({"first": {}}))
    scan(world, 0, MAX_FIRING + 5)
    world.wait(11)
    again = World(*world.rules, stored=world.stored)
    again.now = world.now
    scan(again, 100, 3)
    assert again.written == []
    again.wait(60)
    (digest,) = digests(again)
    assert (digest["status"], digest["count"]) == ("resolved", 8)


def test_a_worker_keeps_its_digest_in_a_partition_of_its_own() -> None:
    for partition in range(8):
        world = World(pairs({"first": {}}))
        world.engine.own(lambda name, own=partition: int(name, 16) % 8 == own)  # type: ignore[misc]  # a default
        scan(world, 0, MAX_FIRING + 1)
        (group,) = [state.group for state in world.stored.values() if state.status == "pending"]
        assert int(fingerprint("one", group), 16) % 8 == partition


@pytest.mark.parametrize("kind", [ABOVE, {"first": {}}])
def test_a_state_with_more_alerts_than_there_is_room_for_is_resolved_and_never_repeated_for_ever(
    kind: dict[str, Any],
) -> None:
    stored: dict[tuple[str, str], AlertState] = {}
    for number in range(40):
        world = World(pairs(kind))
        scan(world, number * 10, 10)
        stored |= world.stored
    again = World(pairs(kind), limit=300, stored=stored)
    again.drain()
    assert again.engine.firing()["one"] <= 4 * MAX_FIRING
    assert again.engine.groups()["one"] <= 300
    assert {one["resolved"] for one in again.written} == {"evicted"}
    assert len(again.written) == 400 - again.engine.firing()["one"]
    firing = [state for state in again.stored.values() if state.status == "firing"]
    assert len(firing) == again.engine.firing()["one"]


def test_a_new_install_learns_quietly_and_then_tells_what_is_new() -> None:
    world = World(pairs({"first": {}}))
    world.engine = Engine(world.rules, 1000, world._count, learn_s=3600)
    assert set(world.engine.learn({}, world.now).values()) == {T0}
    scan(world, 0, 600)
    assert (world.written, world.counts["learned"]) == ([], 600)
    world.now += 3601
    scan(world, 0, 600)
    assert world.written == []
    scan(world, 1000, 1)
    assert statuses(world.written) == ["firing"]


def test_a_rule_that_knows_groups_is_not_new() -> None:
    world = World(pairs({"first": {}}))
    scan(world, 0, 1)
    again = World(*world.rules, stored=world.stored)
    assert set(again.engine.learn({}, T0).values()) == {0}


def jump(world: World) -> None:
    """The clock is an hour ahead for one tick."""
    world.engine.tick(world.now + 3600)
    world.written += world.engine.drain().alerts
    world.engine.tick(world.now)
    world.drain()


@pytest.mark.parametrize("above", [{"window": "1m"}, {"window": "5m"}, {"window": "1m", "distinct": ["port"]}])
def test_a_clock_that_is_an_hour_ahead_for_a_tick_does_not_silence_a_rule(above: dict[str, Any]) -> None:
    world = World(rule(above={"threshold": 10, **above}, resolve_after="30s"))
    jump(world)
    for second in range(20):
        world.take(flow(world.now, port=second))
        world.wait(1)
    assert statuses(world.written) == ["firing"]
    world.wait(800)
    assert statuses(world.written) == ["firing", "resolved"]


def test_an_alert_that_fires_is_resolved_in_time_though_the_clock_was_ahead() -> None:
    for kind in KINDS:
        world = World(rule(resolve_after="30s", **kind))
        world.engine.policy_changed(PolicyChange("NetworkPolicy shop/closed", "deleted", T0), T0)
        world.now += 3600
        world.take(flow(world.now - 3600), flow(world.now))
        world.now -= 3600
        world.wait(60)
        assert set(world.engine.firing().values()) == {0}, kind


def test_a_group_whose_records_began_while_the_clock_was_ahead_begins_again() -> None:
    world = World(rule(after_change={"within": "1m", "quiet": "1m"}))
    world.now += 3600
    world.take(flow(world.now))
    world.now -= 3600
    world.wait(120)
    world.engine.policy_changed(PolicyChange("NetworkPolicy shop/closed", "deleted", world.now), world.now)
    world.take(flow(world.now))
    assert statuses(world.wait(15)) == ["firing"]


def test_amounts_of_a_second_that_is_in_the_future_now_are_not_lost() -> None:
    world = World(rule(above={"threshold": 10, "window": "10s"}))
    world.now += 3
    world.take(*[flow(world.now)] * 5)
    world.now -= 3
    world.engine.tick(world.now)
    assert statuses(world.take(*[flow(world.now)] * 5)) == ["firing"]
