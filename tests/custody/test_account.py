"""The account itself: it finds nothing where wire, script and log agree, and knows what may differ."""

from __future__ import annotations

import ast
import copy
import inspect
import sys

from tests.custody import account, ends, epochs, moves, packets, policies, records, report, script, wire
from tests.custody.packets import ICMP, TCP, UDP, Tuple
from tests.custody.policies import Peer, Policy, Rule, judge
from tests.custody.sample_run import (
    BACKEND,
    CLIENT,
    DENIED,
    DIALLED,
    LOW,
    NEW,
    OPEN,
    PING,
    SERVER,
    START,
    S,
    SampleRun,
    end_of,
    flow_of,
)
from tests.custody.script import Span


def test_nothing_is_found_where_nothing_is_wrong(sample: SampleRun) -> None:
    report = sample.account()
    assert report.differences == []
    assert report.lines()[-1] == f"{len(sample.packets)} packets, {len(sample.records)} verdicts, 0 differences"
    assert report.in_windows == 0
    sample.records.append(copy.deepcopy(sample.records[1]))
    assert sample.account().differences == []


def test_while_a_policy_changes_either_answer_is_right_and_log_and_wire_must_still_agree() -> None:
    for arrives in (True, False):
        run, ends, flow = SampleRun(), (CLIENT, SERVER), flow_of(UDP, CLIENT, SERVER, 9101)
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


def test_an_error_is_judged_by_itself_only_when_its_connection_was_just_revoked() -> None:
    error = Tuple(ICMP, "10.0.0.2", 0, "10.0.0.1", 3 << 8 | 3, is_error=True)
    for at, is_right in ((50.5, True), (30, False)):
        run, ends = SampleRun(), (SERVER, CLIENT)
        run.send(at, ends, error, arrives=False)
        run.log(at, ends, error, "egress", "default_deny")
        assert (run.account().differences == []) is is_right
        run = SampleRun()
        run.send(at, ends, error)
        assert run.account().differences == []
        run.log(at, ends, error, "egress", "no_policy")
        assert (run.account().differences == []) is is_right


def test_the_account_imports_nothing_of_the_product() -> None:
    for module in (account, ends, epochs, moves, packets, policies, records, report, script, wire):
        names = {
            name
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        }
        assert all(
            name.startswith("tests.custody.") or name.partition(".")[0] in sys.stdlib_module_names for name in names
        )


def test_two_generations_may_log_a_connection_while_one_takes_over_and_at_no_other_time(sample: SampleRun) -> None:
    again = sample.records[1] | {"id": "other-0", "timestamp": sample.records[1]["timestamp"].replace(".0", ".1")}
    sample.records.append(again)
    assert sample.account().differences
    sample.script.takeovers = [Span("n2", START + 9 * S, START + 11 * S)]
    report = sample.account()
    assert (report.differences, report.twice) == ([], 1)
    again["id"] = f"ring-{len(sample.records) - 1}"
    assert sample.account().differences
    again["id"] = "other-0"
    for taken in (Span("n2", START + 9 * S, START + 10 * S), Span("n1", START + 9 * S, START + 11 * S)):
        sample.script.takeovers = [taken]
        assert sample.account().differences


def test_a_name_may_be_absent_only_near_the_moment_when_an_address_changes_hands(sample: SampleRun) -> None:
    sample.records[5]["dest"] = end_of(NEW)
    record = next(one for one in sample.records if one["dest"].get("pod_name") == "new")
    record["dest"] = {"instance": "10.0.0.7", "ambiguous": True}
    assert any("in truth new" in text for text in sample.account().differences)
    NEW.begun, before = START + 109 * S, NEW.begun
    try:
        report = sample.account()
    finally:
        NEW.begun = before
    assert (report.differences, report.nameless) == ([], 1)
    for node, since_s, until_s, is_honest in (
        # The address went from n1 to n2 between 100 and 101. A probe that was away later, or is back, has seen it.
        ("n2", 104, 106, False), ("n2", 104, 108, True), ("n2", 106, 108, False), ("n2", 106, 120, False),
        ("n1", 104, 108, True), ("n1", 106, 108, False), ("n1", 106, 120, False),
    ):  # fmt: skip
        sample.script.absences = [Span(node, START + since_s * S, START + until_s * S)]
        assert (sample.account().differences == []) is is_honest


def test_an_error_may_be_judged_alone_while_interfaces_are_moved_but_is_not_denied() -> None:
    error, hosts = Tuple(ICMP, "10.0.0.2", 0, "10.0.0.1", 3 << 8 | 3, is_error=True), (SERVER, CLIENT)
    for end, reason, arrives, is_right in (
        ("egress", "no_policy", True, True),
        ("egress", "policy", True, False),
        ("egress", "default_deny", False, False),
    ):
        run = SampleRun()
        run.script.moves = MOVES
        run.send(5, hosts, error, arrives=arrives)
        run.log(5, hosts, error, end, reason)
        report = run.account()
        assert (report.differences == [], report.alone) == (is_right, int(is_right))
        run.script.moves = []
        assert run.account().differences


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


MOVES = [Span("n1", START + 4 * S, START + 6 * S)]


def moved_service() -> SampleRun:
    """A connection to the Service, whose first answer is dropped, and which is adopted with the next one."""
    run, ends, dialled = SampleRun(), (CLIENT, SERVER), {"ip": "10.96.0.1", "port": 80, "service": {"name": "echo"}}
    run.script.moves = MOVES
    run.send(5, ends, DIALLED)
    run.log(5, ends, BACKEND, "egress", "no_policy", dialled=dialled)
    run.log(5, ends, BACKEND, "ingress", "policy", "low")
    run.send(5.1, (SERVER, CLIENT), BACKEND.reversed(), arrives=False, is_reply=True)
    run.log(5.1, (SERVER, CLIENT), DIALLED.reversed(), "ingress", "unknown_flow")
    run.send(6.1, (SERVER, CLIENT), BACKEND.reversed(), is_reply=True)
    run.log(6.1, ends, BACKEND, "egress", "adopted", dialled=dialled)
    return run


def test_a_connection_that_is_opened_while_interfaces_are_moved_may_be_adopted_and_no_other() -> None:
    run = moved_service()
    report = run.account()
    assert (report.differences, report.alone, report.twice) == ([], 2, 1)
    run.script.moves = [Span("n1", START, START + 4 * S)]
    assert len(run.account().differences) > 2
    run = moved_service()
    run.records = [one for one in run.records if one["reason"] != "unknown_flow"]
    assert any("0 packets were denied" in text for text in run.account().differences)


def test_an_answer_may_be_logged_alone_while_interfaces_are_moved() -> None:
    run, ends, ping = SampleRun(), (SERVER, CLIENT), PING._replace(source="10.0.0.2", destination="10.0.0.1")
    run.script.moves = MOVES
    run.send(5, ends, ping)
    run.log(5, ends, ping, "egress", "no_policy")
    run.log(5, ends, ping, "ingress", "no_policy")
    run.log(5, ends[::-1], PING._replace(destination_port=0), "egress", "no_policy")
    report = run.account()
    assert (report.differences, report.alone) == ([], 1)
    run.script.moves = []
    assert any("is about no packet" in text for text in run.account().differences)


def test_nothing_passes_against_policy_while_interfaces_are_moved() -> None:
    run, ends = SampleRun(), (CLIENT, SERVER)
    run.script.moves = MOVES
    run.send(5, ends, DENIED)
    run.log(5, ends, DENIED, "egress", "no_policy")
    run.log(5, ends, DENIED, "ingress", "policy", "low")
    assert any("arrived; policy says" in text for text in run.account().differences)
