"""A record in Hubble's form, masks, and requests; no Kafka."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from enrich.wire.batch import Reason
from streams.hubble.flow_form import MaskError, flow_message, parse_mask, response
from streams.hubble.losses import lost_response, read_loss
from streams.hubble.messages import message
from streams.hubble.request import MAX_NUMBER, RequestError, read_request
from streams.hubble.words import DROP_REASONS
from tests.streams.observing.test_observe import RECORD, make_flow

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def test_a_record_becomes_a_flow() -> None:
    made = flow_message(make_flow(), "1.0")
    assert (made.uuid, made.verdict, made.node_name, made.traffic_direction) == ("r-1", 1, "n1", 2)
    assert (made.time.seconds, made.time.nanos) == (1795537648, 838398086)
    assert (made.IP.source, made.IP.destination, made.IP.ipVersion) == ("10.0.0.1", "10.0.0.2", 1)
    assert (made.l4.TCP.source_port, made.l4.TCP.destination_port) == (40000, 8080)
    assert (made.source.namespace, made.source.pod_name, made.source.cluster_name) == ("shop", "web-0", "c1")
    assert list(made.source.labels) == ["k8s:app=web"]
    assert [(one.kind, one.name) for one in made.destination.workloads] == [("StatefulSet", "api")]
    assert (made.destination_service.namespace, made.destination_service.name) == ("back", "api")
    assert [(one.kind, one.namespace, one.name) for one in made.egress_allowed_by] == [
        ("NetworkPolicy", "shop", "web-allow-api")
    ]
    assert made.event_type.type == 5
    assert made.HasField("is_reply")
    assert not made.HasField("aggregate")
    assert made.Summary == "TCP; policy"


def test_who_denied() -> None:
    named = RECORD["policies"]
    connection = {**RECORD["connection"], "direction": "ingress"}
    for reason, policies, isolated in (("default_deny", [], named), ("explicit_deny", named, [])):
        for disposition, verdict in (("deny", 2), ("audit", 4)):
            made = flow_message(
                make_flow(
                    disposition=disposition, reason=reason, policies=policies, isolated_by=isolated,
                    connection=connection, count=3,
                ),
                "1.0",
            )  # fmt: skip
            assert made.verdict == verdict
            assert [one.name for one in made.ingress_denied_by] == ["web-allow-api"]
            assert made.drop_reason_desc == (DROP_REASONS[reason] if disposition == "deny" else 0)
            assert made.aggregate.ingress_flow_count == 3
            assert "(3 packets)" in made.Summary


def test_each_drop_reason_is_one_of_a_reason() -> None:
    assert DROP_REASONS.keys() <= {reason.name.lower() for reason in Reason}


def test_a_flood_without_addresses_and_protocols_of_all_kinds() -> None:
    flood = flow_message(make_flow(connection={"direction": "ingress"}, src={}, aggregated=True, count=1 << 31), "1.0")
    assert not flood.HasField("IP")
    assert not flood.HasField("l4")
    assert flood.aggregate.ingress_flow_count == 1 << 31
    for protocol, field in (("udp", "UDP"), ("sctp", "SCTP"), ("icmp", "ICMPv4"), ("icmpv6", "ICMPv6"), ("2", "IGMP")):
        connection = {"protocol": protocol, "direction": "egress"}
        made = flow_message(make_flow(connection=connection, icmp={"type": 8, "code": 1}), "1.0")
        assert made.l4.HasField(field)
    assert flow_message(make_flow(connection={"protocol": "47", "direction": "egress"}), "1.0").HasField("l4") is False


def test_a_mask_leaves_what_is_asked_for() -> None:
    mask = parse_mask(["source.namespace", "uuid", "egress_allowed_by.name", "ethernet", "l7.http", "destination"])
    made = response(make_flow(), "1.0", mask)
    assert sorted(field.name for field, _ in made.flow.ListFields()) == [
        "destination", "egress_allowed_by", "source", "uuid",
    ]  # fmt: skip
    assert (made.flow.source.namespace, made.flow.source.pod_name) == ("shop", "")
    assert made.flow.destination.pod_name == "api-0"
    assert [(one.name, one.kind) for one in made.flow.egress_allowed_by] == [("web-allow-api", "")]
    assert made.node_name == "n1", "the answer around the flow is not masked"
    assert parse_mask(["source", "source.namespace"]) == parse_mask(["source.namespace", "source"]) == {"source": {}}
    for path in ("", "nothing", "source.nothing", "uuid.nothing", "source.", "source..name", ".uuid"):
        with pytest.raises(MaskError):
            parse_mask([path])
    with pytest.raises(MaskError):
        parse_mask(["uuid"] * 201)


def request(**fields: Any) -> Any:
    return read_request(message("GetFlowsRequest")(**fields), ("app",), NOW)


def test_requests() -> None:
    everything = request(number=(1 << 64) - 1)
    assert everything.is_of_a_time
    assert everything.number == 0
    assert request().is_of_a_time
    last = request(number=20)
    assert (last.is_of_a_time, last.number, last.is_first) == (False, 20, False)
    following = request(follow=True)
    assert (following.is_of_a_time, following.number) == (False, 0)
    assert request(follow=True, number=(1 << 64) - 1).is_of_a_time
    at = message("Timestamp")(seconds=int(NOW.timestamp()) - 60, nanos=999_999_999)
    assert request(since=at).since == datetime(2026, 11, 29, 23, 59, 0, 999999, tzinfo=UTC)
    for fields, text in (
        ({"number": MAX_NUMBER + 1}, "number"),
        ({"until": at, "follow": True}, "until and follow"),
        ({"since": at, "until": at}, "until"),
        ({"since": message("Timestamp")(seconds=int(NOW.timestamp()) + 3600)}, "future"),
        ({"since": message("Timestamp")(seconds=1 << 62)}, "since"),
        ({"until": message("Timestamp")(seconds=1, nanos=-1)}, "until"),
    ):
        with pytest.raises(RequestError, match=text):
            request(**fields)
    with pytest.raises(RequestError, match="number 4"):
        read_request(message("GetFlowsRequest").FromString(b"\x20\x01"), (), NOW)


def test_losses() -> None:
    found = read_loss(b'{"type":"gap","cluster":"c1","node":"n1","verdicts":3,"ring":"r"}', "c1")
    assert found is not None
    assert (found.source, found.verdicts) == (3, 3)
    limited = read_loss(b'{"type":"cut","by":"limit","cluster":"c1","node":"n1","verdicts":3}', "")
    assert limited is not None
    assert limited.source == 2
    for value in (
        b'{"type":"cut","by":"logging","cluster":"c1","node":"n1","verdicts":3}',
        b'{"type":"gap","cluster":"c2","node":"n1","verdicts":3}',
        b'{"type":"gap","cluster":"c1","node":"n1","verdicts":0}',
        b'{"type":"gap","cluster":"c1","node":"n1","verdicts":-1}',
        b'{"type":"gap","cluster":"c1","node":"\xff","verdicts":1}',
        b'{"type":"tally","cluster":"c1","node":"n1"}',
        b"[" * 100_000 + b'"gap"',
    ):
        assert read_loss(value, "c1") is None
    made = lost_response("n1", 3, 5, 1500, 2500)
    assert (made.lost_events.first.seconds, made.lost_events.last.nanos, made.time.seconds) == (1, 500_000_000, 2)
