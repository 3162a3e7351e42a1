"""Columns of verdicts say what the records of the same verdicts say."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import MergedBatch, merge
from enrich.wire.batch import AGGREGATED, CUT, Reason, Verdict
from streams.cli.sql.columns import VERDICTS
from streams.cli.sql.verdicts import SCHEMA, VerdictColumns
from tests.enrich.flows import Plain, make_batch, make_cluster, rows_strategy

_EPOCH = datetime(1970, 1, 1)


def made(batch: MergedBatch) -> list[dict[str, Any]]:
    return list(VerdictColumns().record_batch(batch, SCHEMA.names).to_pylist())


def microseconds(record_time: str) -> int:
    """Return a time of a record, which may be in a year that only the record can write."""
    seconds, _, fraction = record_time.removesuffix("Z").partition(".")
    passed = datetime.fromisoformat(seconds) - _EPOCH
    return passed // timedelta(microseconds=1) + int(fraction[:6])


def test_the_descriptions_and_the_makers_have_the_same_columns() -> None:
    row = made(merge(make_batch({})))[0]
    assert list(row) == [column.name for column in VERDICTS]


@settings(deadline=None)
@given(st.lists(rows_strategy, min_size=1, max_size=3))
def test_they_equal_the_records(batches: list[list[dict[str, Any]]]) -> None:
    given_ = [make_batch(*rows, ring=f"r{place}", first=place) for place, rows in enumerate(batches)]
    batch = merge(*given_)
    records = [Plain(one).record(place) for one in given_ for place in range(len(one.verdicts))]
    times = VerdictColumns().record_batch(batch, ["timestamp", "last_timestamp"])
    for row, record, first, last in zip(
        VerdictColumns().record_batch(batch, SCHEMA.names[2:]).to_pylist(),
        records,
        *(times.column(name).cast("int64").to_pylist() for name in ("timestamp", "last_timestamp")),
        strict=True,
    ):
        connection, icmp = record["connection"], record.get("icmp", {})
        assert (microseconds(record["timestamp"]), microseconds(record["last_timestamp"])) == (first, last)
        for name in ("src_ip", "dest_ip", "src_port", "dest_port", "protocol", "direction"):
            assert row[name] == (connection.get(name) or connection.get(name)), name
        for name in ("disposition", "reason", "count", "node_name", "cluster", "id"):
            assert row[name] == record[name], name
        assert (row["icmp_type"], row["icmp_code"]) == (icmp.get("type"), icmp.get("code"))
        assert row["aggregated"] == record.get("aggregated", False)
        assert row["logged"] == record.get("logged", True)
        dialled = record.get("dialled", {})
        assert (row["dialled_ip"], row["dialled_port"]) == (dialled.get("ip"), dialled.get("port"))
        for name in ("policies", "isolated_by"):
            found = [{key: one[key] for key in ("kind", "namespace", "name") if one[key]} for one in row[name]]
            assert [one for place, one in enumerate(found) if one not in found[:place]] == record[name]


def test_each_policy_has_the_index_of_its_rule() -> None:
    (row,) = made(merge(make_batch({"rule": 1})))
    assert [(one["name"], one["rule"]) for one in row["policies"]] == [("allow-web", 0), ("allow-web", 1)]


def test_the_subject_is_the_pod_that_the_batch_names() -> None:
    known, unknown = made(merge(make_batch({"endpoint": 7, "source": "10.0.0.1"}, {"endpoint": 99})))
    assert (known["subject_namespace"], known["subject_pod_name"], known["subject_pod_uid"]) == (
        "shop",
        "web-1",
        "uid-web",
    )
    assert (unknown["subject_namespace"], unknown["subject_pod_name"], unknown["subject_pod_uid"]) == (None,) * 3
    assert known["peer_ip"] == "10.0.0.2"


def test_a_flood_has_no_peer_and_a_denial_that_is_not_logged_says_so() -> None:
    denied = {"verdict": Verdict.DENY, "reason": Reason.DEFAULT_DENY}
    flood, cut = made(merge(make_batch({**denied, "flags": AGGREGATED}, {**denied, "flags": CUT})))
    assert (flood["peer_ip"], flood["src_ip"], flood["aggregated"], flood["logged"]) == (None, None, True, True)
    assert (cut["aggregated"], cut["logged"]) == (False, False)


def test_numbers_mean_what_the_header_of_their_own_batch_says() -> None:
    from enrich.wire.batch import EndpointRef, PolicyRef

    other = make_batch(
        {}, ring="b", node="n2", endpoints={"7": EndpointRef("back", "db-0", "u")},
        rules={"1": [PolicyRef("NetworkPolicy", "back", "allow-db", 4)]},
    )  # fmt: skip
    first, second = made(merge(make_batch({}), other))
    assert (first["subject_pod_name"], first["policies"][0]["name"]) == ("web-1", "allow-web")
    assert (second["subject_pod_name"], second["policies"]) == (
        "db-0",
        [{"kind": "NetworkPolicy", "namespace": "back", "name": "allow-db", "rule": 4}],
    )


def test_the_records_of_a_worker_say_the_same() -> None:
    batch = merge(make_batch({}, {"reason": Reason.DEFAULT_DENY, "verdict": Verdict.DENY, "rule": 2}))
    columns = Enricher(make_cluster()).records(batch).columns
    assert columns is not None
    for place, row in enumerate(made(batch)):
        flow = columns.flow(place)
        assert (row["id"], row["src_ip"], row["disposition"]) == (flow.id, flow.connection.src_ip, flow.disposition)
