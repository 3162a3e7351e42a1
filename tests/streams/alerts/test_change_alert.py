"""One change of a policy makes one alert for all that it cuts off: its pairs, its state, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest

from streams.alerts.change_alert import backtest_line, explain_line, group_of
from streams.alerts.counting import RecordCounter
from streams.alerts.deltas import encode, fingerprint, partition_of
from streams.alerts.example import decode_example, shorten
from streams.alerts.model import AlertRule
from streams.alerts.policy_changes import PolicyChange
from streams.alerts.read import builtin
from tests.streams.alerts.makers import T0, World, flow, rule
from tests.streams.alerts.test_engine import SCHEMA
from tests.streams.observing.test_observe import make_value

POLICY = "NetworkPolicy shop/default-deny"
CHANGE = PolicyChange(POLICY, "updated (egress: 2 rules, then 1)", T0, "kubectl-client-side-apply")
BUILT_IN = next(one for one in builtin() if one.name == "denied-after-change")


def cut_off(world: World, *numbers: int, amount: int = 1) -> None:
    for number in numbers:
        world.take(*[flow(world.now, dest=f"data/db{number}", count=amount + number)])


def written(world: World) -> list[dict[str, Any]]:
    for one in world.written:
        jsonschema.validate(one, SCHEMA, cls=jsonschema.Draft202012Validator)
    return world.written


def test_a_change_that_cuts_forty_pairs_makes_one_alert_with_the_worst_of_them() -> None:
    world = World(BUILT_IN)
    world.engine.policy_changed(CHANGE, T0)
    world.now = T0 + 2
    cut_off(world, *range(30))
    world.wait(5)
    cut_off(world, *range(30, 40))
    assert written(world) == [], "it waits for all of them"
    world.wait(10)
    (fired,) = written(world)
    assert fired["group"] == {"cluster": "c1", "policy": POLICY, "changed_at": "2026-09-21T14:13:20.000Z"}
    assert fired["labels"] == {
        "alertname": "denied-after-change", "severity": "warning", "cluster": "c1", "policy": POLICY,
        "changed_at": "2026-09-21T14:13:20.000Z",
    }  # fmt: skip
    assert (fired["pairs_total"], fired["count"]) == (40, sum(range(1, 41)))
    assert [one["peer.name"] for one in fired["pairs"]] == [
        f"data/Deployment/db{number}" for number in range(39, 29, -1)
    ]  # fmt: skip
    assert fired["pairs"][0]["count"] == 40
    assert (fired["changedBy"], fired["change"]) == (CHANGE.by, CHANGE.what)
    assert fired["annotations"]["summary"] == (
        f"40 pairs are denied since {POLICY} was updated (egress: 2 rules, then 1) by kubectl-client-side-apply"
    )
    assert "shop Deployment/web egress data/Deployment/db39 tcp 5432 (40)" in fired["annotations"]["description"]
    assert fired["annotations"]["explain"].split("; ") == [
        f"weir explain shop/web-0 data/db{number}-0:5432" for number in (39, 38, 37)
    ]  # fmt: skip
    assert fired["annotations"]["backtest"] == f"weir backtest --delete {POLICY.replace(' ', '/')} --since 1h"
    assert len(fired["examples"]) == 3


def test_what_is_cut_off_later_joins_the_alert_and_its_end_has_all() -> None:
    world = World(BUILT_IN)
    world.engine.policy_changed(CHANGE, T0)
    cut_off(world, 1)
    world.wait(20)
    cut_off(world, 2, 3)
    world.wait(400)
    fired, ended = written(world)
    assert (fired["pairs_total"], ended["pairs_total"], ended["status"]) == (1, 3, "resolved")
    assert ended["labels"] == fired["labels"]
    assert world.stored == {}


def test_two_changes_make_two_alerts_and_one_that_nobody_is_known_for_says_so() -> None:
    world = World(BUILT_IN)
    world.engine.policy_changed(CHANGE, T0)
    world.engine.policy_changed(PolicyChange("NetworkPolicy data/allow-api", "deleted", T0), T0)
    cut_off(world, 1)
    world.take(flow(T0, src="data/x", isolated_by=[]))
    world.wait(15)
    first, second = written(world)
    assert [one["policy"] for one in (first, second)] == [POLICY, "NetworkPolicy data/allow-api"]
    assert "changedBy" not in second
    assert "was deleted by somebody who is not known" in second["annotations"]["summary"]


@pytest.mark.parametrize("waited", [5, 20])
def test_a_restart_while_it_waits_or_fires_makes_no_second_alert_and_loses_none(waited: int) -> None:
    world = World(BUILT_IN)
    world.engine.policy_changed(CHANGE, T0)
    cut_off(world, *range(40))
    world.wait(waited)
    again = World(BUILT_IN, stored=world.stored)
    again.now = world.now
    # The next owner of the partition has noted its own time of the change.
    again.engine.policy_changed(PolicyChange(POLICY, CHANGE.what, T0 + 3), again.now)
    again.engine.take(world.deltas, again.now, replayed=True)
    cut_off(again, 3, 50)
    again.wait(400)
    both = [*written(world), *written(again)]
    assert [one["status"] for one in both] == ["firing", "resolved"]
    assert both[0]["pairs_total"] == (40 if waited == 20 else 41)
    assert both[1]["pairs_total"] == 41
    assert (both[0]["changedBy"], both[1]["changedBy"]) == (CHANGE.by, CHANGE.by)
    assert again.stored == {}


def test_a_restart_after_which_fewer_pairs_are_known_keeps_what_was_said() -> None:
    world = World(BUILT_IN)
    world.engine.policy_changed(CHANGE, T0)
    cut_off(world, *range(5))
    world.wait(20)
    again = World(BUILT_IN, stored=world.stored)
    again.now = world.now
    again.wait(400)
    (ended,) = written(again)
    assert (ended["status"], ended["pairs_total"]) == ("resolved", 5)


@pytest.mark.parametrize(("changes", "alone"), [(120, 50), (300, 0)])
def test_too_many_changes_at_once_share_the_digest(changes: int, alone: int) -> None:
    world = World(BUILT_IN, limit=2000)
    for number in range(changes):
        world.engine.policy_changed(PolicyChange(f"NetworkPolicy ns{number}/allow", "deleted", T0), T0)
        world.take(flow(T0, src=f"ns{number}/web", isolated_by=[]))
    world.wait(60)
    fired = [one for one in written(world) if one["status"] == "firing"]
    assert len([one for one in fired if not one.get("digest")]) == alone
    world.wait(700)
    assert written(world)[-1]["resolved"] == "quiet"
    (ended,) = [one for one in world.written if one.get("digest") and one["status"] == "resolved"]
    assert ended["count"] == changes - alone
    assert [one for one in world.stored.values() if one.status != "known"] == []


def test_pairs_that_differ_in_a_field_are_several_in_templates() -> None:
    one = rule(
        group_by=["subject.workload", "port"], after_change={}, annotations={"a": "{{ subject.workload }}:{{ port }}"}
    )
    world = World(one)
    world.engine.policy_changed(CHANGE, T0)
    world.take(flow(T0, port=80), flow(T0, port=443))
    world.wait(15)
    assert written(world)[0]["annotations"]["a"] == "Deployment/web:several"


def _homes(one: AlertRule, flows: Sequence[dict[str, Any]], partitions: int) -> set[int]:
    counter = RecordCounter([one])
    for number, found in enumerate(flows):
        counter.count_flow(counter.read_flow(make_flow_value(found, number)))
    return {partition for partition, _ in encode(counter.drain(), partitions)}


def make_flow_value(found: dict[str, Any], number: int) -> bytes:
    return make_value(**{**found, "id": f"r-{number}"})


def test_all_groups_of_a_cluster_and_the_state_of_the_alert_are_in_one_partition() -> None:
    flows = [flow(T0, dest=f"data/db{number}") for number in range(40)]
    (home,) = _homes(BUILT_IN, flows, 32)
    assert len(_homes(rule(group_by=["dest.name"], above={"threshold": 1, "window": "1m"}), flows, 32)) > 1
    assert home == partition_of(BUILT_IN.name, ["c1"], 32)
    for number in range(20):
        change = PolicyChange(f"NetworkPolicy shop/p{number}", "deleted", T0)
        group = group_of(BUILT_IN, "c1", change, lambda name: int(name, 16) % 32)
        assert partition_of(BUILT_IN.name, group, 32) == home
        assert fingerprint(BUILT_IN.name, group)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "weir explain shop/web-0 back/api-0:8080"),
        ({"dest": {}}, "weir explain shop/web-0 10.0.0.2:8080"),
        ({"dest": {}, "connection": {"src_ip": "fd00::1", "dest_ip": "fd00::2", "dest_port": 53, "protocol": "udp",
                                     "direction": "egress"}}, "weir explain shop/web-0 [fd00::2]:53/UDP"),
        ({"connection": {"protocol": "icmp", "direction": "egress"}}, ""),
        ({"src": {"node_name": "n1"}, "connection": {"dest_port": 1, "direction": "ingress", "protocol": "tcp"}}, ""),
    ],
)  # fmt: skip
def test_a_line_asks_why(changes: dict[str, Any], line: str) -> None:
    assert explain_line(decode_example(bytes(shorten(make_value(**changes))))) == line


@pytest.mark.parametrize(
    ("policy", "change", "line"),
    [
        ("NetworkPolicy shop/db", "created", "weir backtest --delete NetworkPolicy/shop/db --since 1h"),
        ("ClusterNetworkPolicy guard", "updated", "weir backtest --delete ClusterNetworkPolicy/guard --since 1h"),
        ("NetworkPolicy shop/db", "deleted", "weir backtest FILE --since 1h"),
        ("NetworkPolicy shop/$(reboot)", "created", ""),
        ("NetworkPolicy shop/db; reboot", "created", ""),
        ("", "", ""),
    ],
)
def test_a_line_asks_what_would_be_without_the_change(policy: str, change: str, line: str) -> None:
    assert backtest_line(policy, change) == line
