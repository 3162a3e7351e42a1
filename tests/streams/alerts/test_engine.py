"""Rules at work on made records, with a clock that the test turns: alerts, and the state that outlives the process."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jsonschema
import orjson
import pytest

from streams.alerts.engine import tracker_registry
from streams.alerts.model import KINDS, AlertRule
from streams.alerts.policy_changes import PolicyChange
from streams.alerts.read import builtin
from streams.alerts.threshold import ThresholdTracker
from tests.streams.alerts.makers import T0, World, flow, loss, rule

SCHEMA = orjson.loads((resources.files("streams") / "schemas/alert.schema.json").read_bytes())


def statuses(written: list[dict[str, Any]]) -> list[str]:
    for one in written:
        jsonschema.validate(one, SCHEMA, cls=jsonschema.Draft202012Validator)
    return [one["status"] for one in written]


def burst(**above: Any) -> AlertRule:
    return rule(above={"threshold": 5, "window": "10s", **above}, resolve_after="5s",
                annotations={"say": "{{ count }} of {{ subject.namespace }}: {{ example }}"})  # fmt: skip


def test_it_fires_at_the_threshold_and_resolves_after_a_quiet_time() -> None:
    world = World(burst())
    assert world.take(*[flow(T0 - 3, count=2)] * 2) == []
    (fired,) = world.take(flow(T0 - 1))
    assert (fired["status"], fired["count"], fired["startsAt"]) == ("firing", 5, "2026-09-21T14:13:19.000Z")
    assert fired["labels"] == {
        "alertname": "one", "severity": "warning", "cluster": "c1", "subject_namespace": "shop",
    }  # fmt: skip
    assert fired["annotations"]["say"] == ("5 of shop: deny egress shop/web-0 -> data/db-0:5432 tcp (default_deny)")
    assert len(fired["examples"]) == 3
    assert world.take(flow(T0)) == []
    # The window ends 7 s ago at the earliest, and holds two of three seconds then: quiet from 14 s on, over 5 s later.
    written = world.wait(60)
    assert statuses(written) == ["resolved"]
    assert written[0]["id"] == fired["id"].replace("firing", "resolved")
    assert written[0]["labels"] == fired["labels"]
    assert (written[0]["endsAt"], written[0]["resolved"]) == ("2026-09-21T14:13:38.000Z", "quiet")
    assert world.stored == {}


def test_groups_do_not_share_a_window() -> None:
    world = World(burst())
    world.take(*[flow()] * 4, *[flow(src="batch/report")] * 4)
    assert world.written == []
    assert statuses(world.take(flow(src="batch/report"))) == ["firing"]
    assert world.written[0]["group"] == {"cluster": "c1", "subject.namespace": "batch"}


def test_late_records_do_not_fire() -> None:
    world = World(burst())
    assert world.take(*[flow(T0 - 17)] * 50) == []
    assert world.counts["late"] == 1
    assert statuses(world.take(*[flow(T0 - 16)] * 5)) == ["firing"]


def test_a_burst_that_arrives_late_fires() -> None:
    world = World(burst())
    # Five within the window, reported with a sixth that would have moved the window past them.
    assert statuses(world.take(*[flow(T0 - 11)] * 5, flow(T0))) == ["firing"]


def test_records_from_a_clock_that_is_ahead_count_as_now() -> None:
    world = World(burst())
    assert statuses(world.take(*[flow(T0 + 3600)] * 5)) == ["firing"]
    assert statuses(world.wait(60)) == ["resolved"]


def test_for_delays_firing_and_starts_again_after_a_pause() -> None:
    world = World(burst(**{"for": "20s"}))
    world.take(*[flow()] * 5)
    assert [state.status for state in world.stored.values()] == ["pending"]
    assert world.wait(19) == []  # quiet long before
    assert world.stored == {}
    world.take(*[flow(world.now)] * 5)
    for _ in range(19):
        world.wait(1)
        assert world.take(flow(world.now)) == []
    world.wait(1)
    assert statuses(world.written) == ["firing"]


def test_a_pending_alert_continues_after_a_restart() -> None:
    world = World(burst(**{"for": "20s"}))
    world.take(*[flow()] * 5)
    again = World(*world.rules, stored=world.stored)
    again.now = T0 + 10
    again.engine.take(world.deltas, again.now, replayed=True)
    for _ in range(11):
        again.take(*[flow(again.now)] * 5)
        again.wait(1)
    assert statuses(again.written) == ["firing"]
    assert again.now < T0 + 22


def test_many_ports_are_a_scan_and_many_attempts_at_one_port_are_not() -> None:
    scan = rule(group_by=["src.name", "dest.name"], above={"threshold": 5, "distinct": ["protocol", "port"]})
    world = World(scan)
    assert world.take(*[flow(count=100)] * 50, *[flow(port=port) for port in range(3)]) == []
    (fired,) = world.take(*[flow(port=port) for port in range(10)])
    assert fired["group"] == {"cluster": "c1", "src.name": "shop/Deployment/web", "dest.name": "data/Deployment/db"}
    assert fired["count"] >= 5


def test_a_flood_without_ports_is_not_a_scan() -> None:
    world = World(rule(group_by=["src.name"], above={"threshold": 2, "distinct": ["port"]}))
    flood = flow(aggregated=True, count=10_000)
    flood["connection"] = {"direction": "egress"}
    assert world.take(*[flood] * 20) == []


def test_the_first_denial_of_a_pair_fires_once_and_the_pair_is_known_after_a_restart() -> None:
    first = rule(group_by=["src.workload", "dest.workload"], first={}, resolve_after="30s")
    world = World(first)
    assert statuses(world.take(flow(), flow())) == ["firing"]
    assert statuses(world.take(flow(dest="data/cache"))) == ["firing"]
    assert statuses(world.wait(40)) == ["resolved", "resolved"]
    assert {state.status for state in world.stored.values()} == {"known"}
    again = World(first, stored=world.stored)
    assert again.take(flow(), flow(dest="data/cache")) == []
    assert statuses(again.take(flow(dest="data/queue"))) == ["firing"]


def test_old_records_make_a_pair_known_without_firing() -> None:
    world = World(rule(group_by=["src.workload"], first={"fresh": "1m"}))
    assert world.take(flow(T0 - 61)) == []
    assert world.take(flow(T0)) == []
    assert world.counts["late"] == 1


def test_the_number_of_pairs_is_limited_and_the_oldest_are_evicted() -> None:
    world = World(rule(group_by=["port"], first={}, resolve_after="0s"), limit=3)
    for age, port in enumerate((5, 4, 3, 2)):
        world.take(flow(T0 - 40 + age, port=port))
        world.wait(1)
    assert len(world.stored) == 3
    assert world.counts["evicted_groups"] == 1
    written = len(world.written)
    world.take(flow(world.now, port=2))
    assert len(world.written) == written


def after() -> AlertRule:
    return rule(
        group_by=["subject.workload", "port"],
        after_change={"within": "20s", "quiet": "60s"},
        resolve_after="30s",
        annotations={"why": "{{ policy }} {{ change }}"},
    )


NAMED = "NetworkPolicy shop/default-deny"


@pytest.mark.parametrize("delay", [-4, 3])
def test_denials_that_begin_with_a_change_name_it_in_either_order_of_arrival(delay: int) -> None:
    world = World(after())
    if delay < 0:
        assert world.take(flow(T0 + delay)) == []
    world.engine.policy_changed(PolicyChange(NAMED, "updated (egress: 2 rules, then 1)", T0), T0)
    if delay > 0:
        assert world.drain() == []
        world.now = T0 + delay
        world.take(flow(T0 + delay))
    (fired,) = world.wait(15)
    assert (fired["policy"], fired["labels"]["policy"]) == (NAMED, NAMED)
    assert fired["annotations"]["why"] == f"{NAMED} updated (egress: 2 rules, then 1)"
    assert statuses(world.wait(60)) == ["resolved"]


def test_denials_before_the_change_are_not_caused_by_it() -> None:
    world = World(after())
    world.take(flow(T0 - 30))
    world.engine.policy_changed(PolicyChange(NAMED, "created", T0), T0)
    world.now = T0 + 2
    world.take(flow(T0 + 1), flow(T0 + 2))
    world.now = T0 + 25
    world.take(flow(T0 + 25, port=80))  # too long after it
    assert world.wait(20) == []


CHANGES = [
    (["NetworkPolicy shop/allow deleted", f"{NAMED} created"], NAMED),  # the records name it
    (["NetworkPolicy shop/allow deleted", "NetworkPolicy data/x deleted"], "NetworkPolicy shop/allow"),
    (["ClusterNetworkPolicy all updated", "NetworkPolicy shop/allow updated"], "NetworkPolicy shop/allow"),
    (["ClusterNetworkPolicy all updated"], "ClusterNetworkPolicy all"),
    (["NetworkPolicy shop/other created"], None),  # the records would name it
    (["NetworkPolicy data/x deleted"], None),
]


@pytest.mark.parametrize(("descriptions", "expected"), CHANGES)
def test_the_most_likely_change_is_named(descriptions: list[str], expected: str | None) -> None:
    world = World(after())
    for one in descriptions:
        policy, _, what = one.rpartition(" ")
        world.engine.policy_changed(PolicyChange(policy, what, T0), T0)
    world.take(flow(T0))
    world.wait(15)
    assert [one["policy"] for one in world.written] == ([expected] if expected else [])


def test_losses_are_counted_in_verdicts() -> None:
    world = World(rule(of="lost", group_by=["node", "reason"], above={"threshold": 8, "window": "5m"}))
    assert world.take(loss(), loss(type="heartbeat", next=1)) == []
    (fired,) = world.take(loss())
    assert (fired["count"], fired["examples"]) == (10, [])
    assert fired["group"] == {"cluster": "c1", "node": "n1", "reason": "ring_full"}


def test_a_firing_alert_survives_a_restart_without_firing_again() -> None:
    world = World(burst())
    world.take(*[flow()] * 5)
    again = World(*world.rules, stored=world.stored)
    again.now = T0 + 3
    again.engine.take(world.deltas, again.now, replayed=True)
    assert again.take(flow(T0 + 3)) == []
    assert statuses(again.wait(60)) == ["resolved"]
    assert again.written[0]["startsAt"] == world.written[0]["startsAt"]


def test_counts_survive_a_restart() -> None:
    world = World(burst())
    world.take(*[flow()] * 4)
    again = World(*world.rules)
    again.engine.take(world.deltas, again.now, replayed=True)
    assert statuses(again.take(flow())) == ["firing"]


def test_replayed_deltas_fire_if_the_alert_was_not_written_before() -> None:
    world = World(burst())
    world.take(*[flow()] * 5)
    again = World(*world.rules)
    again.engine.take(world.deltas, again.now, replayed=True)
    assert again.drain() == []
    assert statuses(again.wait(1)) == ["firing"]


def test_an_alert_whose_rule_is_gone_or_changed_is_resolved_with_its_old_labels() -> None:
    world = World(burst())
    (fired,) = world.take(*[flow()] * 5)
    for rules in ((), (rule(group_by=["port"], above={"threshold": 5}),)):
        again = World(*rules, stored=world.stored)
        assert statuses(again.drain()) == ["resolved"]
        assert (again.written[0]["resolved"], again.written[0]["labels"]) == ("rule_gone", fired["labels"])
        assert again.stored == {}


def test_a_changed_threshold_keeps_counts_and_firing_alerts() -> None:
    world = World(burst())
    world.take(*[flow()] * 5)
    again = World(burst(threshold=6), stored=world.stored)
    again.engine.take(world.deltas, again.now, replayed=True)
    assert again.drain() == []
    assert statuses(again.wait(30)) == ["resolved"]


def test_quiet_groups_are_evicted_and_firing_ones_are_not() -> None:
    world = World(rule(group_by=["port"], above={"threshold": 3, "window": "1m"}), limit=10)
    assert statuses(world.take(*[flow(port=1)] * 3)) == ["firing"]
    for port in range(2, 30):
        world.take(flow(port=port), flow(port=port))
    assert world.counts["evicted_groups"] == 19
    assert statuses(world.take(flow(port=29))) == ["firing"]
    assert world.engine.groups() == {"one": 10}
    assert world.engine.firing() == {"one": 2}


def test_deltas_of_another_version_are_ignored_and_counted() -> None:
    world = World(burst())
    world.take(*[flow()] * 4)
    other = World(rule(group_by=["port"], above={"threshold": 1, "window": "10s"}))
    other.engine.take(world.deltas, other.now)
    assert (other.drain(), other.counts["stale"]) == ([], 1)


def test_the_built_in_rules_detect_scans_bursts_first_denials_and_losses() -> None:
    world = World(*builtin())
    scan = [flow(port=port, dest="data/db") for port in range(20)]
    world.take(*scan, flow(count=120), loss())
    assert {one["rule"] for one in world.written} == {"port-scan", "deny-burst", "first-deny", "pipeline-loss"}
    hosts = [flow(connection={"dest_ip": f"10.0.1.{host}"}) for host in range(20)]
    world.take(*hosts)
    assert world.written[-1]["rule"] == "host-scan"
    statuses(world.written)
    statuses(world.wait(800))
    assert set(world.engine.firing().values()) == {0}


def test_a_kind_without_a_tracker_and_a_tracker_without_a_kind_are_refused() -> None:
    make = ThresholdTracker
    tracker_registry(dict.fromkeys(KINDS, make))
    with pytest.raises(RuntimeError, match="only one side has first"):
        tracker_registry({"above": make, "after_change": make})
    with pytest.raises(RuntimeError, match="only one side has ratio"):
        tracker_registry(dict.fromkeys((*KINDS, "ratio"), make))
