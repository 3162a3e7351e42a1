"""Every difference between wire, script and log that is planted is found."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest

from tests.custody.packets import LATER
from tests.custody.sample_run import (
    ALLOWED,
    DENIED,
    OLD,
    OUT,
    SampleRun,
    end_of,
)


def _drop_a_record(sample: SampleRun) -> None:
    sample.records.pop()


def _drop_a_record_in_between(sample: SampleRun) -> None:
    del sample.records[1]


def _log_twice(sample: SampleRun) -> None:
    sample.records.append(sample.records[1] | {"id": f"ring-{len(sample.records)}"})


def _repeat_another_content(sample: SampleRun) -> None:
    sample.records.append(sample.records[1] | {"count": 2})


def _repeat_with_a_wrong_name(sample: SampleRun) -> None:
    sample.records.append(copy.deepcopy(sample.records[1]))
    sample.records[-1]["src"]["pod_name"] = "server"


def _rename_a_pod(sample: SampleRun) -> None:
    sample.records[1]["src"]["pod_name"] = "server"


def _name_the_former_pod(sample: SampleRun) -> None:
    sample.records[5]["dest"] = end_of(OLD)


def _name_no_subject(sample: SampleRun) -> None:
    sample.records[1]["dest"] = {"instance": "10.0.0.2"}


def _name_no_peer_that_was_always_there(sample: SampleRun) -> None:
    sample.records[1]["src"] = {"instance": "10.0.0.1", "ambiguous": True}


def _name_a_pod_for_the_world(sample: SampleRun) -> None:
    record = next(one for one in sample.records if one["connection"]["dest_ip"] == "198.51.100.7")
    record["dest"] = end_of(OLD)


def _name_another_policy(sample: SampleRun) -> None:
    sample.records[1]["policies"][0]["name"] = "open"


def _name_one_policy_too_few(sample: SampleRun) -> None:
    sample.records[1]["policies"] = []


def _give_another_reason(sample: SampleRun) -> None:
    sample.records[0]["reason"] = "policy"


def _count_one_too_few(sample: SampleRun) -> None:
    sample.records[4]["count"] = 3


def _count_an_allow_twice(sample: SampleRun) -> None:
    sample.records[1]["count"] = 2


def _deny_in_the_log_what_passed(sample: SampleRun) -> None:
    sample.records[1]["disposition"] = "deny"


def _let_a_denied_packet_arrive(sample: SampleRun) -> None:
    sent = next(one for one in sample.packets if one.flow == DENIED)
    sample.packets.append(sent._replace(at=sent.at + 1000, place="server", is_sent=False))


def _lose_an_allowed_packet(sample: SampleRun) -> None:
    sample.packets = [one for one in sample.packets if one.flow != OUT or one.is_sent]


def _lose_a_later_fragment(sample: SampleRun) -> None:
    sample.packets = [one for one in sample.packets if one.fragment != LATER or one.is_sent]


def _have_a_packet_arrive_twice(sample: SampleRun) -> None:
    sample.packets.append(next(one for one in sample.packets if one.flow == ALLOWED and not one.is_sent))


def _move_a_record_in_time(sample: SampleRun) -> None:
    sample.records[1]["timestamp"] = "2026-11-18T00:00:00.000000000Z"


def _log_what_was_not_sent(sample: SampleRun) -> None:
    record = copy.deepcopy(sample.records[0]) | {"id": f"ring-{len(sample.records)}"}
    record["connection"]["src_port"] = 1
    sample.records.append(record)


def _forget_the_dialled_address(sample: SampleRun) -> None:
    del next(one for one in sample.records if "dialled" in one)["dialled"]


def _name_another_service(sample: SampleRun) -> None:
    next(one for one in sample.records if "dialled" in one)["dialled"]["service"]["name"] = "other"


def _name_another_node(sample: SampleRun) -> None:
    sample.records[1]["node_name"] = "n1"


PLANTED: dict[Callable[[SampleRun], None], str] = {
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
    _log_what_was_not_sent: "is about no packet that was captured",
    _forget_the_dialled_address: r"was dialled at \{\}, in truth \('10.96.0.1', 80\)",
    _name_another_service: "'other'.*in truth",
    _name_another_node: "is of node n1",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.strip("_"))
def test_each_difference_is_found(sample: SampleRun, plant: Callable[[SampleRun], None]) -> None:
    plant(sample)
    found = sample.account().differences
    assert any(re.search(PLANTED[plant], text) for text in found), found
