"""The way of a report from a batch to the topic flows.ended, on a real Apache Kafka."""

from __future__ import annotations

import orjson
import pytest

from enrich.wire.ends import NO_NUMBER, How
from tests.kafka.batches import make_batch, make_ends, make_rows
from tests.kafka.site import Site, until
from tests.schemas import load, validator

pytestmark = pytest.mark.kafka


def test_a_report_becomes_the_record_of_its_verdict_with_what_was_carried(site: Site) -> None:
    service = site.start_enrich()
    rows = make_rows(3, ingress=True)
    rows["verdict"][0] = make_rows(1)["verdict"][0]
    rows["source"][0], rows["destination"][0] = rows["destination"][0].copy(), rows["source"][0].copy()
    how = [How.CLOSED, How.OPEN, How.REVOKED]
    site.send(make_batch(5, 2, {"ends": make_ends(rows, how=how, part=[0, 1, 0], number=[7, 8, NO_NUMBER])}))
    site.send(make_batch(7, 2))
    site.flush()
    ended = site.read_flows(3, "flows.ended")
    for record in ended:
        validator(load("ended")).validate(record)
        flow = {key: value for key, value in record.items() if key != "ended"}
        if flow["id"]:
            validator(load("flow"), closed=True).validate(flow)
    assert [record["id"] for record in ended] == ["0000000000000010-7", "0000000000000010-8", ""]
    out, into, _ = ended
    assert (out["src"]["pod_name"], out["dest"]["pod_name"]) == ("web-0", "api-0")
    assert (into["src"]["pod_name"], into["dest"]["pod_name"]) == ("api-0", "web-0")
    assert out["policies"] == [{"kind": "NetworkPolicy", "namespace": "shop", "name": "web-allow-api"}]
    assert [record["ended"]["how"] for record in ended] == ["closed", "open", "revoked"]
    carried = ("src_bytes", "src_packets", "dest_bytes", "dest_packets")
    # The pod of the verdict has sent 1,234 bytes in 6 packets: it is the source of the first connection only.
    assert [out["ended"][name] for name in carried] == [1234, 6, 40_321, 9]
    assert [into["ended"][name] for name in carried] == [40_321, 9, 1234, 6]
    assert out["ended"]["duration_ms"] == 1500
    assert out["ended"]["since"] == out["timestamp"] < out["ended"]["until"]
    # The verdicts of the batch are what they are without reports, and so is their count.
    assert [flow["id"] for flow in site.read_flows(4)] == ["r1-5", "r1-6", "r1-7", "r1-8"]
    until(lambda: service.metric("kubeweir_streams_ended_connections_total") == 3 or None, "three records")
    assert service.stop() == 0


def test_a_repeated_report_has_the_same_id_and_part_and_one_that_is_not_understood_is_left_out(site: Site) -> None:
    service = site.start_enrich()
    rows = make_rows(2)
    batch = make_batch(5, 1, {"ends": make_ends(rows, part=3, how=[How.CLOSED, 77]), "ends_first": 10})
    site.send(batch)
    site.send(batch)
    site.send(make_batch(6, 1, {"ends": make_ends(rows)[:-8], "ends_first": 12}))
    site.send(make_batch(7, 1, {"ends_first": 20, "ends_lost": {"ring_full": [2, 2]}, "ends_removed": {"refused": 4}}))
    site.flush()
    sent = site.read("flows.ended", lambda found: len(found) >= 2)
    first, second = (orjson.loads(one.value() or b"") for one in sent)
    assert first == second
    assert first["ended"]["part"] == 3
    flows = [orjson.loads(one.value() or b"")["id"] for one in site.read("flows", lambda found: len(found) >= 4)]
    assert flows == ["r1-5", "r1-5", "r1-6", "r1-7"], "no verdict suffers"
    told = [orjson.loads(one.value() or b"") for one in site.read("status", lambda found: len(found) >= 6)]
    lost = {one["reason"]: one for one in told if one["type"] == "ends_lost"}
    for one in lost.values():
        validator(load("status")).validate(one)
    assert "77 in the report of verdict 0000000000000010-1" in lost["unknown_end"]["error"]
    expected = {"unknown_end": 1, "unreadable": 1, "ring_full": 2, "gap": 7, "refused": 4}
    assert {reason: one["reports"] for reason, one in lost.items()} == expected
    assert service.stop() == 0
