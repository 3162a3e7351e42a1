"""What Hubble's filters mean for a record; what is refused, and how long a filter may take."""

from __future__ import annotations

import time
from typing import Any

import pytest

from streams.hubble.field_tests import is_like
from streams.hubble.filters import FilterError, FlowFilters
from streams.hubble.messages import fields_of, message
from tests.streams.observing.test_observe import make_flow, make_value

LABELS = ("app", "tier", "app.kubernetes.io/*")


def one(**fields: Any) -> Any:
    return message("FlowFilter")(**fields)


def fits(*white: Any, black: Any = (), **changes: Any) -> bool:
    filters = FlowFilters(white, black, LABELS)
    value = make_value(**changes)
    found = filters.match(make_flow(**changes), value)
    assert filters.may_match(value) or not found, "its bytes must not leave out what fits"
    return found


def kind(name: str, /, **fields: Any) -> Any:
    return message(name)(**fields)


@pytest.mark.parametrize(
    ("fields", "is_shown"),
    [
        ({}, True),
        ({"source_pod": ["shop/web"]}, True),
        ({"source_pod": ["shop/"]}, True),
        ({"source_pod": ["/web"]}, True),
        ({"source_pod": ["web"]}, False),  # of the namespace default
        ({"source_pod": ["web", "shop/web-0"]}, True),
        ({"destination_pod": ["shop/web"]}, False),
        ({"destination_pod": ["back/api"], "source_pod": ["back/api"]}, False),
        ({"destination_service": ["back/a"]}, True),
        ({"source_service": ["back/a"]}, False),
        ({"source_ip": ["10.0.0.0/8"]}, True),
        ({"source_ip": ["10.0.0.1/8"]}, True),  # its bits behind the prefix mean nothing
        ({"source_ip": ["fd00::/8"]}, False),
        ({"destination_ip": ["10.0.0.1", "10.0.0.2"]}, True),
        ({"source_port": ["40000"]}, True),
        ({"destination_port": ["80"]}, False),  # that is what was dialled, which Hubble's flows do not have
        ({"source_label": ["app=web"]}, True),
        ({"source_label": ["k8s:app in (api, web),!tier"]}, True),
        ({"source_label": ["app!=web"]}, False),
        ({"destination_label": ["tier notin (1)", "any:tier"]}, True),
        ({"destination_label": ["reserved:world"]}, False),
        ({"source_workload": [kind("Workload", name="web")]}, True),
        ({"source_workload": [kind("Workload", kind="StatefulSet")]}, False),
        ({"source_cluster_name": ["c1"]}, True),
        ({"node_name": ["n*"]}, True),
        ({"node_name": ["c1/"]}, True),
        ({"node_name": ["c2/n1"]}, False),
        ({"verdict": [1]}, True),
        ({"verdict": [2, 3]}, False),
        ({"event_type": [kind("EventTypeFilter", type=5)]}, True),
        ({"event_type": [kind("EventTypeFilter", type=1), kind("EventTypeFilter", type=4)]}, False),
        ({"drop_reason_desc": [133]}, False),
        ({"protocol": ["TCP"]}, True),
        ({"protocol": ["udp", "http"]}, None),
        ({"ip_version": [1]}, True),
        ({"ip_version": [2]}, False),
        ({"traffic_direction": [2]}, True),
        ({"reply": [False]}, True),
        ({"uuid": ["r-1"]}, True),
        ({"source_identity": [2]}, False),
    ],
)
def test_fields(fields: dict[str, Any], is_shown: bool | None) -> None:
    if is_shown is None:
        with pytest.raises(FilterError):
            fits(one(**fields))
        return
    assert fits(one(**fields)) is is_shown
    assert fits(black=(one(**fields),)) is not is_shown
    assert fits(one(source_pod=["no/body"]), one(**fields)) is is_shown, "any one of the whitelist"


def test_ends_that_are_no_pods() -> None:
    outside = {"dest": {"instance": "203.0.113.5"}}
    assert fits(one(destination_identity=[2]), **outside)
    assert fits(one(destination_label=["reserved:world"]), **outside)
    assert fits(one(destination_label=["!app"]), **outside)
    assert not fits(one(source_label=["!app"]), src={}), "its labels are not known"
    assert not fits(one(destination_identity=[2]), dest={"instance": "10.0.0.9", "ambiguous": True})
    assert fits(one(source_identity=[1]), src={"node_name": "n1"})
    assert fits(one(source_identity=[6]), src={"node_name": "n2"})
    assert not fits(one(destination_pod=["/"]), **outside)


def test_each_filter_is_answered_or_refused_by_its_name() -> None:
    values = {
        "string": ["x"], "bool": [True], "uint32": [4242], "uint64": [1], "int32": [99], "Unused": [kind("Unused")],
        "Workload": [kind("Workload")], "EventTypeFilter": [kind("EventTypeFilter", type=99)],
    }  # fmt: skip
    answered = {
        "uuid", "source_pod", "destination_pod", "source_service", "destination_service", "source_workload",
        "destination_workload", "source_cluster_name", "destination_cluster_name", "node_name", "ip_version",
    }  # fmt: skip
    for name, (_, text) in fields_of("FlowFilter").items():
        made = one()
        if name == "experimental":
            made.experimental.cel_expression.append("true")
        else:
            getattr(made, name).extend(values[text.removeprefix("repeated ")])
        for white, black in (([made], []), ([], [made])):
            if name in answered:
                FlowFilters(white, black, LABELS)
                continue
            with pytest.raises(FilterError, match=rf"\b{name}\b"):
                FlowFilters(white, black, LABELS)


def test_a_filter_of_a_later_version_is_refused_by_its_number() -> None:
    with pytest.raises(FilterError, match="number 77"):
        FlowFilters([message("FlowFilter").FromString(b"\xe8\x04\x01")], [], LABELS)


@pytest.mark.parametrize(
    "fields",
    [
        {"source_label": ["team=red"]},  # records do not have it
        {"source_label": ["app=web,"]},
        {"source_label": ["container:app=web"]},
        {"source_label": ["reserved:world=1"]},
        {"source_label": [""]},
        {"source_pod": [""]},
        {"source_port": ["65536"]},
        {"source_port": ["٣"]},
        {"source_ip": ["10.0.0.0/33"]},
        {"node_name": ["a/b/c"]},
        {"node_name": ["(a+)+$"]},
        {"uuid": ["x"] * 1001},
        {"uuid": ["x" * 1025]},
    ],
)
def test_values_that_cannot_be_read_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FilterError):
        FlowFilters([one(**fields)], [], LABELS)
    with pytest.raises(FilterError):
        FlowFilters([one()] * 65, [], LABELS)


def test_a_pattern_cannot_keep_the_server_busy() -> None:
    assert is_like("node-1.eu", "n*-?.*".replace("?", "1"))
    assert is_like("", "*")
    assert not is_like("node", "n*d")
    assert not is_like("a" * 254, "a*"), "no name is so long"
    began = time.process_time()
    for _ in range(20):
        assert not is_like("a" * 253, "*a" * 500 + "b")
        assert not fits(one(source_label=["app in (" + ",".join(["a"] * 400) + ")"]))
    assert time.process_time() - began < 5
    with pytest.raises(FilterError):
        FlowFilters([one(source_label=["(" * 1024])], [], LABELS)
