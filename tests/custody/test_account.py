"""The account itself: it finds nothing where wire, script and log agree, and every difference that is planted."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest

from tests.custody.packets import FIRST, ICMP, LATER, TCP, UDP, Tuple
from tests.custody.policies import Peer, Policy, Rule, judge
from tests.custody.told import (
    ALLOWED,
    BACKEND,
    CLIENT,
    DENIED,
    DIALLED,
    LARGE,
    LATE,
    LOW,
    NEW,
    OLD,
    OPEN,
    OUT,
    PING,
    SERVER,
    START,
    WORLD,
    S,
    Told,
    end_of,
    flow_of,
)


@pytest.fixture
def told() -> Told:
    """Tell a run of every kind of connection, with nothing wrong."""
    run = Told()
    ends, back = (CLIENT, SERVER), (SERVER, CLIENT)
    run.send(10, ends, ALLOWED)
    run.send(10.1, back, ALLOWED.reversed())
    run.log(10, ends, ALLOWED, "egress", "no_policy")
    run.log(10, ends, ALLOWED, "ingress", "policy", "low")
    for number in range(5):
        run.send(11 + number / 10, ends, DENIED, arrives=False)
    run.log(11, ends, DENIED, "egress", "no_policy")
    run.log(11, ends, DENIED, "ingress", "default_deny", "low")
    run.log(11.1, ends, DENIED, "ingress", "default_deny", "low", count=4)
    run.send(110, (CLIENT, NEW), LATE)
    run.log(110, (CLIENT, NEW), LATE, "egress", "no_policy")
    run.log(110, (CLIENT, NEW), LATE, "ingress", "no_policy")
    run.send(12, ends, DIALLED)
    service = {"namespace": "shop", "name": "echo"}
    run.log(12, ends, BACKEND, "egress", "no_policy", dialled={"ip": "10.96.0.1", "port": 80, "service": service})
    run.log(12, ends, BACKEND, "ingress", "policy", "low")
    run.send(60, ends, PING)
    run.send(60.1, back, PING, is_reply=True)
    run.log(60, ends, PING, "egress", "no_policy")
    run.log(60, ends, PING, "ingress", "policy", "open")
    run.send(13, (CLIENT, WORLD), OUT)
    run.log(13, (CLIENT, WORLD), OUT, "egress", "no_policy")
    run.send(14, ends, LARGE, fragment=FIRST)
    run.send(14.1, ends, Tuple(UDP, "10.0.0.1", 0, "10.0.0.2", 0), fragment=LATER)
    run.log(14, ends, LARGE, "egress", "no_policy")
    run.log(14, ends, LARGE, "ingress", "policy", "low")
    return run


def test_nothing_is_found_where_nothing_is_wrong(told: Told) -> None:
    report = told.account()
    assert report.differences == []
    assert report.lines()[-1] == f"{len(told.packets)} packets, {len(told.records)} verdicts, 0 differences"
    assert report.in_windows == 0
    told.records.append(copy.deepcopy(told.records[1]))
    assert told.account().differences == []


def _drop_a_record(told: Told) -> None:
    told.records.pop()


def _drop_a_record_in_between(told: Told) -> None:
    del told.records[1]


def _log_twice(told: Told) -> None:
    told.records.append(told.records[1] | {"id": f"ring-{len(told.records)}"})


def _repeat_another_content(told: Told) -> None:
    told.records.append(told.records[1] | {"count": 2})


def _repeat_with_a_wrong_name(told: Told) -> None:
    told.records.append(copy.deepcopy(told.records[1]))
    told.records[-1]["src"]["pod_name"] = "server"


def _rename_a_pod(told: Told) -> None:
    told.records[1]["src"]["pod_name"] = "server"


def _name_the_former_pod(told: Told) -> None:
    told.records[5]["dest"] = end_of(OLD)


def _name_no_subject(told: Told) -> None:
    told.records[1]["dest"] = {"instance": "10.0.0.2"}


def _name_no_peer_that_was_always_there(told: Told) -> None:
    told.records[1]["src"] = {"instance": "10.0.0.1", "ambiguous": True}


def _name_a_pod_for_the_world(told: Told) -> None:
    record = next(one for one in told.records if one["connection"]["dest_ip"] == "198.51.100.7")
    record["dest"] = end_of(OLD)


def _name_another_policy(told: Told) -> None:
    told.records[1]["policies"][0]["name"] = "open"


def _name_one_policy_too_few(told: Told) -> None:
    told.records[1]["policies"] = []


def _give_another_reason(told: Told) -> None:
    told.records[0]["reason"] = "policy"


def _count_one_too_few(told: Told) -> None:
    told.records[4]["count"] = 3


def _count_an_allow_twice(told: Told) -> None:
    told.records[1]["count"] = 2


def _deny_in_the_log_what_passed(told: Told) -> None:
    told.records[1]["disposition"] = "deny"


def _let_a_denied_packet_arrive(told: Told) -> None:
    sent = next(one for one in told.packets if one.flow == DENIED)
    told.packets.append(sent._replace(at=sent.at + 1000, place="server", is_sent=False))


def _lose_an_allowed_packet(told: Told) -> None:
    told.packets = [one for one in told.packets if one.flow != OUT or one.is_sent]


def _lose_a_later_fragment(told: Told) -> None:
    told.packets = [one for one in told.packets if one.fragment != LATER or one.is_sent]


def _have_a_packet_arrive_twice(told: Told) -> None:
    told.packets.append(next(one for one in told.packets if one.flow == ALLOWED and not one.is_sent))


def _move_a_record_in_time(told: Told) -> None:
    told.records[1]["timestamp"] = "2026-11-18T00:00:00.000000000Z"


def _log_what_nobody_sent(told: Told) -> None:
    record = copy.deepcopy(told.records[0]) | {"id": f"ring-{len(told.records)}"}
    record["connection"]["src_port"] = 1
    told.records.append(record)


def _forget_the_dialled_address(told: Told) -> None:
    del next(one for one in told.records if "dialled" in one)["dialled"]


def _name_another_service(told: Told) -> None:
    next(one for one in told.records if "dialled" in one)["dialled"]["service"]["name"] = "other"


def _name_another_node(told: Told) -> None:
    told.records[1]["node_name"] = "n2"


PLANTED: dict[Callable[[Told], None], str] = {
    _drop_a_record: "0 times allowed at its ingress in the log",
    _drop_a_record_in_between: "the log has no record ring-1",
    _log_twice: "2 times allowed at its ingress in the log",
    _repeat_another_content: "two records have the id ring-1 and differ",
    _repeat_with_a_wrong_name: r"src is \('server', 'uid-client', 'shop'\), in truth client",
    _rename_a_pod: r"src is \('server', 'uid-client', 'shop'\), in truth client",
    _name_the_former_pod: r"dest is \('old'.*in truth new",
    _name_no_subject: "dest is .*None.*in truth server",
    _name_no_peer_that_was_always_there: "src is .*None.*in truth client",
    _name_a_pod_for_the_world: "dest is .*old.*in truth world",
    _name_another_policy: r"names \['open'\]",
    _name_one_policy_too_few: r"names \[\]; by policy",
    _give_another_reason: "by policy it is one of",
    _count_one_too_few: "4 packets were denied, and of 5 there and 0 back 5 and 0 did not arrive",
    _count_an_allow_twice: "has the count 2",
    _deny_in_the_log_what_passed: "1 packets were denied, and of 1 there",
    _let_a_denied_packet_arrive: "arrived; policy says",
    _lose_an_allowed_packet: "did not arrive; policy says",
    _lose_a_later_fragment: "0 of 1 later fragments arrived",
    _have_a_packet_arrive_twice: "1 packets arrived that were not sent",
    _move_a_record_in_time: "no packet of it was on its way then",
    _log_what_nobody_sent: "is about no packet that was captured",
    _forget_the_dialled_address: r"was dialled at \{\}, in truth \('10.96.0.1', 80\)",
    _name_another_service: "'other'.*in truth",
    _name_another_node: "is of node n2",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.strip("_"))
def test_each_difference_is_found(told: Told, plant: Callable[[Told], None]) -> None:
    plant(told)
    found = told.account().differences
    assert any(re.search(PLANTED[plant], text) for text in found), found


def test_while_a_policy_changes_either_answer_is_right_and_log_and_wire_must_still_agree() -> None:
    for arrives in (True, False):
        run, ends, flow = Told(), (CLIENT, SERVER), flow_of(UDP, CLIENT, SERVER, 9101)
        run.send(50.5, ends, flow, arrives=arrives)
        run.log(50.5, ends, flow, "egress", "no_policy")
        run.log(50.5, ends, flow, "ingress", *(("policy", "open") if arrives else ("default_deny", "low")))
        report = run.account()
        assert (report.differences, report.in_windows) == ([], 1)
        run.log(50.5, ends, flow, "ingress", "default_deny", "low")
        assert run.account().differences
        run.records[1:] = []
        assert run.account().differences
    run.send(51.5, ends, flow._replace(source_port=1), arrives=False)
    assert any("did not arrive; policy says" in text for text in run.account().differences)


def test_two_generations_may_log_a_connection_while_one_takes_over_and_at_no_other_time(told: Told) -> None:
    again = told.records[1] | {"id": "other-0", "timestamp": told.records[1]["timestamp"].replace(".0", ".1")}
    told.records.append(again)
    assert told.account().differences
    told.script.takeovers = [(START + 9 * S, START + 11 * S)]
    report = told.account()
    assert (report.differences, report.twice) == ([], 1)
    again["id"] = f"ring-{len(told.records) - 1}"
    assert told.account().differences
    again["id"] = "other-0"
    told.script.takeovers = [(START + 9 * S, START + 10 * S)]
    assert told.account().differences


def test_a_name_may_be_absent_only_near_the_moment_when_an_address_changes_hands(told: Told) -> None:
    told.records[5]["dest"] = end_of(NEW)
    record = next(one for one in told.records if one["dest"].get("pod_name") == "new")
    record["dest"] = {"instance": "10.0.0.7", "ambiguous": True}
    assert any("in truth new" in text for text in told.account().differences)
    NEW.begun, before = START + 109 * S, NEW.begun
    try:
        report = told.account()
    finally:
        NEW.begun = before
    assert (report.differences, report.nameless) == ([], 1)


def test_the_oracle_knows_ports_labels_and_blocks() -> None:
    block = Policy("block", "server", "ingress", (Rule(blocks=("198.51.100.0/24",)),))

    def ask(
        *policies: Policy, app: str = "client", address: str = "10.0.0.1", protocol: int = TCP, port: int = 8001
    ) -> str:
        answer = judge(policies, "server", "ingress", Peer(app, address), protocol, port)
        return f"{answer.reason} {','.join(sorted(answer.policies))}"

    assert ask() == "no_policy "
    assert ask(LOW) == "policy low"
    assert ask(LOW, OPEN) == "policy low,open"
    assert ask(LOW, port=8100) == ask(LOW, app="churn") == ask(LOW, protocol=ICMP) == "default_deny low"
    assert ask(LOW, block, app="", address="198.51.100.7") == "policy block"
    assert ask(LOW, block, port=1) == "default_deny block,low"
    assert judge([LOW], "server", "egress", Peer("client", "10.0.0.1"), TCP, 1).reason == "no_policy"
