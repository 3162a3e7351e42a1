"""A batch to records: what each row says, by whom, and that haste changes nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.index.cluster import Change, Cluster
from enrich.model import EndpointSlice, Name, Node, Pod, Service
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.batch import AGGREGATED, INGRESS, UNNAMED, Batch, EndpointRef, PolicyRef, Reason, Verdict
from tests.enrich.flows import CLOCK, PODS, Plain, make_batch, make_cluster, rows_strategy

S = 1_000_000_000


@pytest.fixture
def cluster() -> Cluster:
    return make_cluster()


def enrich(batch: Batch, cluster: Cluster | None = None, *labels: str) -> list[dict[str, Any]]:
    made = Enricher(cluster or make_cluster(), labels) if labels else Enricher(cluster or make_cluster())
    return [orjson.loads(value) for value in made.records(merge(batch)).values]


def one(**verdict: Any) -> dict[str, Any]:
    return enrich(make_batch(verdict))[0]


def test_an_allowed_connection_between_two_pods() -> None:
    assert one() == {
        "connection": {
            "src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": 8080,
            "protocol": "tcp", "direction": "egress",
        },
        "disposition": "allow", "reason": "policy",
        "policies": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "allow-web"}], "isolated_by": [],
        "src": {
            "pod_name": "web-1", "namespace": "shop", "pod_namespace": "shop", "workload_kind": "Deployment",
            "workload_name": "web", "pod_uid": "uid-web", "labels": {"app": "web", "app.kubernetes.io/name": "shop"},
            "node_name": "n1", "zone": "zone-a",
        },
        "dest": {
            "pod_name": "api-1", "namespace": "shop", "pod_namespace": "shop", "pod_uid": "uid-api",
            "labels": {"k8s-app": "api"}, "node_name": "n2",
        },
        "count": 1, "timestamp": "2026-09-21T14:13:25.000000001Z", "last_timestamp": "2026-09-21T14:13:25.000000001Z",
        "node_name": "n1", "cluster": "c-1", "schema": 1, "id": "9f%d3c-100",
    }  # fmt: skip


def test_a_default_deny_names_the_policies_that_isolate() -> None:
    record = one(verdict=Verdict.DENY, reason=Reason.DEFAULT_DENY, rule=2, count=9, span_ms=1500)
    assert (record["disposition"], record["reason"], record["policies"]) == ("deny", "default_deny", [])
    assert record["isolated_by"] == [
        {"kind": "NetworkPolicy", "namespace": "shop", "name": "deny-all"},
        {"kind": "ClusterNetworkPolicy", "name": "baseline"},
    ]
    assert (record["count"], record["last_timestamp"]) == (9, "2026-09-21T14:13:26.500000001Z")


def test_the_local_end_is_the_destination_of_what_comes_in() -> None:
    record = one(verdict=Verdict.ALLOW | INGRESS, source="10.0.0.2", destination="10.0.0.1")
    assert (record["connection"]["direction"], record["src"]["pod_name"], record["dest"]["pod_name"]) == (
        "ingress", "api-1", "web-1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("address", "end"),
    [
        ("203.0.113.9", {"instance": "203.0.113.9"}),
        ("2001:db8::1", {"instance": "2001:db8::1"}),
        ("10.0.0.0", {"instance": "10.0.0.0"}),
        ("2001:db8::", {"instance": "2001:db8::"}),
        ("192.0.2.1", {"node_name": "n1", "zone": "zone-a"}),
        ("", {}),
    ],
)
def test_an_end_that_is_no_pod(address: str, end: dict[str, Any]) -> None:
    assert one(destination=address)["dest"] == end


def test_a_forged_source_is_not_named_as_the_pod_that_has_the_address() -> None:
    found = one(verdict=0x82, reason=Reason.SPOOFED, source="10.0.0.2", destination="10.0.0.1", flags=UNNAMED)
    assert found["src"] == {"instance": "10.0.0.2", "ambiguous": True}


@pytest.mark.parametrize("until_ns", [None, 0])
def test_what_the_kernel_knows_as_the_node_is_named_so_and_waits_for_nobody(until_ns: int | None) -> None:
    made = Enricher(make_cluster())
    # A bridge's address, from the range of the pods.
    batch = merge(
        make_batch(
            {"verdict": 0x81, "reason": Reason.NODE, "source": "10.0.0.200", "destination": "10.0.0.1"},
            {"verdict": 0x81, "source": "10.0.0.200", "destination": "10.0.0.1"},
        )
    )
    looked = made.lookup(batch)
    if until_ns is not None:
        made.mark_ambiguous(batch, looked, until_ns)
    kubelet, other = (orjson.loads(value) for value in made.records(batch, looked).values)
    assert kubelet["src"] == {"node_name": "n1", "zone": "zone-a"}
    assert looked.unsettled is not None
    assert looked.unsettled.tolist() == [False, True]
    assert other["src"]["instance"] == "10.0.0.200"


@pytest.mark.parametrize(
    ("protocol", "port", "connection", "icmp"),
    [
        (17, 53, {"protocol": "udp", "src_port": 40000, "dest_port": 53}, None),
        (132, 7, {"protocol": "sctp", "src_port": 40000, "dest_port": 7}, None),
        (1, 8 << 8, {"protocol": "icmp"}, {"type": 8, "code": 0}),
        (58, 1 << 8 | 4, {"protocol": "icmpv6"}, {"type": 1, "code": 4}),
        (47, 0, {"protocol": "47"}, None),
        (0, 0, {}, None),
    ],
)
def test_ports_and_types_where_there_are_some(
    protocol: int, port: int, connection: dict[str, Any], icmp: dict[str, int] | None
) -> None:
    record = one(protocol=protocol, destination_port=port)
    addresses = {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "direction": "egress"}
    assert record["connection"] == addresses | connection
    assert record.get("icmp") == icmp


def test_the_service_that_was_dialled() -> None:
    assert one(dialled="10.96.0.1", dialled_port=80)["dialled"] == {
        "ip": "10.96.0.1", "port": 80, "service": {"namespace": "shop", "name": "api"},
    }  # fmt: skip
    assert one(dialled="10.96.0.7", dialled_port=80)["dialled"] == {"ip": "10.96.0.7", "port": 80}
    assert "dialled" not in one()


def test_a_flood_has_no_addresses() -> None:
    record = one(flags=AGGREGATED, verdict=Verdict.DENY, reason=Reason.DEFAULT_DENY, source="", destination="", count=5)
    assert record["aggregated"] is True
    assert record["connection"] == {"direction": "egress"}
    assert (record["src"]["pod_name"], record["dest"], record["count"]) == ("web-1", {}, 5)


def test_numbers_that_the_header_does_not_explain_are_not_guessed() -> None:
    batch = make_batch({"endpoint": 99, "rule": 99})
    records = Enricher(make_cluster()).records(merge(batch))
    record = orjson.loads(records.values[0])
    assert records.keys == [b"n1"]
    assert (record["src"], record["policies"]) == ({"node_name": "n1"}, [])


def test_a_pod_that_the_index_does_not_know_is_named_by_the_header() -> None:
    record = one(endpoint=8)
    assert record["src"] == {
        "pod_name": "old-b", "namespace": "gone", "pod_namespace": "gone", "pod_uid": "uid-gone", "node_name": "n1",
    }  # fmt: skip


def test_what_a_later_sender_says_is_unknown_and_not_wrong() -> None:
    record = one(verdict=9, reason=200)
    assert (record["disposition"], record["reason"]) == ("unknown", "unknown")


def test_keys_denies_and_times() -> None:
    batch = make_batch(
        {"time_ns": 5_999_999_999},
        {"verdict": Verdict.DENY | INGRESS, "endpoint": 8},
        {"verdict": Verdict.AUDIT, "endpoint": 0},
    )
    records = Enricher(make_cluster()).records(merge(batch))
    assert records.keys == [b"shop/web-1", b"gone/old-b", b"n1"]
    assert records.denied == [False, True, True]
    assert records.times_ms[0] == CLOCK // 1_000_000 + 5_999


def test_no_time_is_in_the_future() -> None:
    batch = make_batch({}, {"time_ns": (1 << 62) - 1})
    now = CLOCK + 2 * S
    assert Enricher(make_cluster(), now_ns=lambda: now).records(merge(batch)).times_ms == [now // 10**6, now // 10**6]


@pytest.mark.parametrize(
    ("chosen", "labels"),
    [
        (("*",), {"app": "web", "app.kubernetes.io/name": "shop", "secret": "x"}),
        (("app",), {"app": "web"}),
        (("app.kubernetes.io/*", "none"), {"app.kubernetes.io/name": "shop"}),
        (("",), {}),
    ],
)
def test_the_labels_that_a_setting_lists(chosen: tuple[str, ...], labels: dict[str, str]) -> None:
    assert enrich(make_batch({}), None, *chosen)[0]["src"]["labels"] == labels


def test_no_labels_at_all() -> None:
    value = Enricher(make_cluster(), ()).records(merge(make_batch({}))).values[0]
    assert orjson.loads(value)["src"]["labels"] == {}


def test_a_thinned_batch_keeps_its_numbers() -> None:
    batch = make_batch({}, {}, {}, kept=[(100, 1), (200, 2)])
    assert [record["id"] for record in enrich(batch)] == ["9f%d3c-100", "9f%d3c-200", "9f%d3c-201"]


def test_an_empty_batch_has_no_records() -> None:
    assert Enricher(make_cluster()).records(merge(make_batch())).values == []


# --- time


def test_the_remote_end_is_who_had_the_address_then() -> None:
    now = CLOCK
    cluster = Cluster(now_ns=lambda: now)
    old, new = PODS[1], Pod("shop", "next", "uid-next", {}, PODS[1].ips)
    cluster.replace(Pod, [old])
    now = CLOCK + 10 * S
    cluster.apply([Change("delete", old), Change("set", new)])
    times = [5, 8, 9, 10, 11, 12, 15]
    batch = make_batch(*({"time_ns": second * S} for second in times))
    ends = [record["dest"] for record in enrich(batch, cluster)]
    assert [end.get("pod_name") for end in ends] == ["api-1", "api-1", None, None, None, "next", "next"]
    assert ends[3] == {"instance": "10.0.0.2", "ambiguous": True}
    # Each row by itself says the same: no cache outlives the moment that it is for.
    enricher = Enricher(cluster)
    for second, end in [*zip(times, ends, strict=True), *zip(times, ends, strict=True)][::-1]:
        value = enricher.records(merge(make_batch({"time_ns": second * S}))).values[0]
        assert orjson.loads(value)["dest"] == end


def test_what_the_index_learns_is_in_the_next_batch(cluster: Cluster) -> None:
    enricher = Enricher(cluster)
    verdict = {"destination": "10.0.0.9", "dialled": "10.96.0.1", "dialled_port": 1}
    before = orjson.loads(enricher.records(merge(make_batch(verdict))).values[0])
    cluster.apply([
        Change("set", Pod("shop", "late", "uid-late", {}, ("10.0.0.9",), started_ns=CLOCK)),
        Change("set", Pod("shop", "web-1", "uid-web", {"app": "new"}, PODS[0].ips, "n1")),
        Change("delete", next(iter(cluster.services().values()))),
    ])  # fmt: skip
    after = orjson.loads(enricher.records(merge(make_batch(verdict))).values[0])
    assert (before["dest"], after["dest"]["pod_name"]) == ({"instance": "10.0.0.9"}, "late")
    assert (before["src"]["labels"]["app"], after["src"]["labels"]["app"]) == ("web", "new")
    assert ("service" in before["dialled"], "service" in after["dialled"]) == (True, False)


def test_rings_do_not_share_numbers(cluster: Cluster) -> None:
    enricher = Enricher(cluster)
    other = {"endpoints": {"7": EndpointRef("x", "other", "u")}, "rules": {"1": [PolicyRef("K", "x", "p")]}}
    for _ in range(2):
        assert enricher.records(merge(make_batch({}))).keys == [b"shop/web-1"]
        records = enricher.records(merge(make_batch({}, ring="other", **other)))
        assert records.keys == [b"x/other"]
        assert orjson.loads(records.values[0])["policies"] == [{"kind": "K", "namespace": "x", "name": "p"}]


def test_a_header_that_explains_late_or_otherwise_is_believed(cluster: Cluster) -> None:
    enricher = Enricher(cluster)
    assert enricher.records(merge(make_batch({}, endpoints={}, rules={}))).keys == [b"n1"]
    assert enricher.records(merge(make_batch({}))).keys == [b"shop/web-1"]
    assert enricher.records(merge(make_batch({}, endpoints={"7": EndpointRef("x", "other", "u")}))).keys == [b"x/other"]


# --- haste


@settings(deadline=None)
@given(st.lists(rows_strategy, min_size=1, max_size=3), st.integers(0, (1 << 62) - 1) | st.just(CLOCK))
def test_every_row_says_what_a_plain_rendering_says(batches: list[list[dict[str, Any]]], clock: int) -> None:
    enricher = Enricher(make_cluster())
    for number, verdicts in enumerate(batches):
        batch = make_batch(*verdicts, clock=clock, first=number * 1000)
        plain = Plain(batch)
        found = [orjson.loads(value) for value in enricher.records(merge(batch)).values]
        assert found == [plain.record(index) for index in range(len(verdicts))]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(rows_strategy, st.sampled_from(("r1", "r2")), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_batches_as_one_array_make_the_records_that_each_alone_makes(given_batches: list[Any]) -> None:
    batches = []
    for number, (verdicts, ring, hours, other) in enumerate(given_batches):
        named = {"endpoints": {"7": EndpointRef("x", "other", "u")}} if other else {}
        batch = make_batch(*verdicts, clock=CLOCK + hours * 3600 * S, ring=ring, first=number * 1000, **named)
        batches.append(batch.pick(batch.verdicts["protocol"] != 17) if other else batch)
    together, alone = (Enricher(make_cluster(), now_ns=lambda: CLOCK) for _ in range(2))
    found = together.records(merge(*batches))
    apart = [alone.records(merge(batch)) for batch in batches]
    for column in ("keys", "values", "denied", "times_ms"):
        assert getattr(found, column) == [value for one in apart for value in getattr(one, column)]
    assert found.owners == [number for number, one in enumerate(apart) for _ in one.values]


def test_an_address_among_pods_that_may_have_been_forgotten_is_not_said_to_be_nobodys() -> None:
    cluster = make_cluster(since=CLOCK)
    verdict = {"time_ns": 0, "destination": "10.0.0.77"}
    early = make_batch(verdict, clock=CLOCK - 10 * S)
    assert enrich(early, cluster)[0]["dest"] == {"instance": "10.0.0.77", "ambiguous": True}
    assert enrich(make_batch(verdict), cluster)[0]["dest"] == {"instance": "10.0.0.77"}
    cluster.addresses.set_complete_since(CLOCK - 20 * S)
    assert enrich(early, cluster)[0]["dest"] == {"instance": "10.0.0.77"}


def test_an_address_outside_that_an_endpoint_slice_puts_behind_a_service() -> None:
    cluster = make_cluster()
    outside = EndpointSlice("shop", "db-1", "u", "db", ("203.0.113.5",))
    cluster.apply([Change("set", outside)])
    verdict = {"destination": "203.0.113.5"}
    service = {"namespace": "shop", "name": "db"}
    assert enrich(make_batch(verdict), cluster)[0]["dest"] == {"instance": "203.0.113.5", "service": service}
    cluster.apply([Change("set", EndpointSlice("bank", "x", "v", "ledger", ("203.0.113.5",)))])
    assert enrich(make_batch(verdict), cluster)[0]["dest"] == {"instance": "203.0.113.5"}, "two Services: neither"


def test_an_address_that_moved_names_its_new_node_from_then_on_only(cluster: Cluster) -> None:
    enricher = Enricher(cluster)

    def named(*verdicts: dict[str, Any]) -> list[Any]:
        """The peers' nodes, and the Services that were dialled."""
        read = [orjson.loads(value) for value in enricher.records(merge(make_batch(*verdicts))).values]
        services = [one.get("dialled", {}).get("service", {}).get("name") for one in read]
        return [(one["dest"].get("node_name"), service) for one, service in zip(read, services, strict=True)]

    early = {"time_ns": 0, "destination": "192.0.2.2", "dialled": "10.96.0.1", "dialled_port": 80}
    late = early | {"time_ns": 5 * S}
    assert named(early, late) == [("n2", "api")] * 2
    # A node that is replaced, and a Service that is deleted: first nobody has the address, then another one.
    (service,) = cluster.services().values()
    cluster.apply([Change("delete", cluster.nodes()[Name("", "n2")]), Change("delete", service)])
    assert named(early, late) == [("n2", "api"), (None, None)]
    cluster.apply([
        Change("set", Node("n3", "u3", {}, ("192.0.2.2",))),
        Change("set", Service("bank", "ledger", "u9", ("10.96.0.1",))),
    ])  # fmt: skip
    for _ in range(2):
        assert named(early, late, early) == [(None, None), ("n3", "ledger"), (None, None)]
        assert named(late, early) == [("n3", "ledger"), (None, None)]
    # A change of the owner itself is no move, nor is an address that nobody had.
    cluster.apply([Change("set", Node("n3", "u3", {"a": "b"}, ("192.0.2.2", "192.0.2.9")))])
    assert named(late, early | {"destination": "192.0.2.9"})[1][0] == "n3"


def test_a_part_of_a_batch_keeps_the_numbers_of_its_rows(cluster: Cluster) -> None:
    part = make_batch({}, {}, {}).pick([0, 2])  # type: ignore[arg-type]  # numpy takes a list of places
    assert [record["id"] for record in enrich(part, cluster)] == ["9f%d3c-100", "9f%d3c-102"]
