"""A record says what was true at the packet's time, even if it has changed since."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from enrich.index.addresses import Addresses
from enrich.index.cluster import KINDS, Change, Cluster
from enrich.index.pod_facts import zone_at
from enrich.model import Name, Node, Object, Owner, Pod, Service, Workload
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.address_interval import AddressInterval
from enrich.wire.batch import EndpointRef
from tests.enrich.flows import CLOCK, make_batch
from tests.enrich.steps import at_each_step

S = 1_000_000_000
OWNER = Owner("ReplicaSet", "web-abc", "r")
WEB = Pod("shop", "web", "u0", {"app": "x", "role": "blue"}, ("10.0.0.1",), "n1", owner=OWNER, started_ns=1)
TCP, UDP = 6, 17
AGES = (100, 50, 0)
"""Seconds before now: before a change of 60 s ago, after it, and now."""


class Site:
    """An index with a clock, and an enricher that is never emptied."""

    def __init__(self, *listed: Object, tail_s: float = 3600.0) -> None:
        self.now = CLOCK
        self.cluster = Cluster(tail_s=tail_s, now_ns=lambda: self.now)
        self.cluster.replace_all({kind: [one for one in listed if type(one) is kind] for kind in KINDS})
        self.cluster.addresses.set_complete_since(0)
        self.enricher = Enricher(self.cluster, ("*",), now_ns=lambda: self.now)

    def set(self, *objects: Object) -> None:
        self.cluster.apply([Change("set", made) for made in objects])

    def delete(self, *objects: Object) -> None:
        self.cluster.apply([Change("delete", made) for made in objects])

    def wait(self, seconds: int) -> None:
        self.now += seconds * S

    def records(self, *ages: int, until_age: int | None = None, **verdict: Any) -> list[dict[str, Any]]:
        """The records of one verdict, made so many seconds ago."""
        facts = {"destination": "10.0.0.1", "source": "10.0.0.2", "endpoint": 1, **verdict}
        clock = self.now - 1000 * S
        batch = merge(make_batch(
            *({**facts, "time_ns": (1000 - age) * S} for age in ages), clock=clock,
            endpoints={"1": EndpointRef("shop", "api", "u1"), "2": EndpointRef("shop", "web", "u0")},
        ))  # fmt: skip
        found = self.enricher.lookup(batch)
        if until_age is not None:
            self.enricher.mark_ambiguous(batch, found, self.now - until_age * S)
        return [orjson.loads(value) for value in self.enricher.records(batch, found).values]

    def peers(self, *ages: int, until_age: int | None = None, **verdict: Any) -> list[dict[str, Any]]:
        return [record["dest"] for record in self.records(*ages, until_age=until_age, **verdict)]

    def dialled(self, ip: str, port: int, *ages: int, protocol: int = TCP) -> list[str | None]:
        """The Services that were dialled."""
        found = self.records(*ages, until_age=None, dialled=ip, dialled_port=port, protocol=protocol)
        return [record["dialled"].get("service", {}).get("name") for record in found]


def relabelled(pod: Pod, **labels: str) -> Pod:
    return msgspec.structs.replace(pod, labels={**pod.labels, **labels})


@pytest.mark.parametrize("end", ["dest", "src"])
def test_labels_are_those_of_then(end: str) -> None:
    site = Site(WEB)
    verdict: dict[str, Any] = {} if end == "dest" else {"endpoint": 2, "destination": "203.0.113.9"}

    def roles(*ages: int) -> list[str | None]:
        return [record[end]["labels"].get("role") for record in site.records(*ages, **verdict)]

    assert roles(100, 0) == ["blue", "blue"]
    site.wait(100)
    site.set(relabelled(WEB, role="green"))
    assert roles(0, 50, 100) == [None, "blue", "blue"], "just now both are possible"
    site.wait(60)
    for _ in range(2):
        assert roles(*AGES) == ["blue", "green", "green"]
        assert roles(60, 0) == [None, "green"]
    assert [one[end]["labels"]["app"] for one in site.records(60, **verdict)] == ["x"], "it was the same all the time"
    site.set(relabelled(WEB, role="red"))
    site.wait(5)
    assert roles(105, 50, 0) == ["blue", "green", "red"]


def test_labels_of_a_pod_that_is_gone_are_those_of_then() -> None:
    site = Site(WEB)
    site.wait(100)
    site.set(relabelled(WEB, role="green"))
    site.wait(30)
    site.delete(relabelled(WEB, role="green"))
    site.wait(30)
    assert [peer["labels"]["role"] for peer in site.peers(100, 50)] == ["blue", "green"]


def test_labels_that_are_older_than_the_retention_are_left_out() -> None:
    site = Site(WEB, tail_s=60)
    site.wait(100)
    site.set(relabelled(WEB, role="green"))
    site.wait(70)
    site.set(Node("n9", "u9", {}))
    assert [peer["labels"] for peer in site.peers(100, 0)] == [{}, {"app": "x", "role": "green"}]


def interval(**facts: Any) -> AddressInterval:
    return AddressInterval(
        cluster="c", node="n1", ip="10.0.0.1", uid="u0", namespace="shop", pod="web", **{
            "first": CLOCK - 500 * S, "start": CLOCK - 500 * S, "labels": dict(WEB.labels), **facts,
        },
    )  # fmt: skip


@pytest.mark.parametrize("interval_first", [True, False])
def test_labels_that_changed_while_no_worker_ran_are_left_out(*, interval_first: bool) -> None:
    site = Site(*(() if interval_first else (relabelled(WEB, role="green"),)))
    site.cluster.addresses.add_interval(interval(owner=None))
    if interval_first:
        site.set(relabelled(WEB, role="green"))
    site.wait(60)
    assert [peer["labels"].get("role") for peer in site.peers(100, 0)] == [None, "green"]


def test_a_pod_that_only_its_probe_knows_loses_a_label_that_changed() -> None:
    site = Site()
    for labels in (dict(WEB.labels), {"app": "x"}):
        site.cluster.addresses.add_interval(interval(labels=labels))
        assert site.peers(100)[0]["labels"] == labels
    site.set(WEB)
    site.delete(WEB)
    site.cluster.addresses.add_interval(interval(labels={}))
    assert site.peers(100)[0]["labels"] == {"app": "x"}


def test_the_zone_is_that_of_then() -> None:
    node = Node("n1", "n", {}, ("192.0.2.1",), "a")
    site = Site(WEB, node)
    site.wait(100)
    site.delete(node)
    site.set(Node("n1", "m", {}, ("192.0.2.1",), "b"))
    site.wait(60)
    assert [peer["zone"] for peer in site.peers(*AGES)] == ["a", "b", "b"]
    assert [peer.get("zone") for peer in site.peers(*AGES, 60, destination="192.0.2.1")] == ["a", "b", "b", None]


def test_a_reader_sees_the_former_zone_while_the_change_is_made() -> None:
    site = Site(WEB, Node("n1", "n", {}, ("192.0.2.1",), "a"))
    site.wait(100)
    seen: list[str] = []
    at_each_step(
        "cluster.py",
        lambda: site.set(Node("n1", "n", {}, ("192.0.2.1",), "b")),
        lambda: seen.append(zone_at(site.cluster, "n1", site.now - 50 * S)[0]),
    )
    assert set(seen) == {"a"}


def test_verdicts_later_than_every_change_do_not_cost_a_look_at_each_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    replica_set = Workload("ReplicaSet", "shop", "web-abc", "r", Owner("Deployment", "web"))
    site = Site(WEB, Node("n1", "n", {}, (), "a"), Node("n2", "n", {}, (), "a"), replica_set)
    site.records(0)
    adopted = Workload("ReplicaSet", "shop", "web-abc", "r", Owner("Deployment", "adopter"))
    for changed in (Node("n1", "n", {}, (), "b"), relabelled(WEB, role="green"), adopted):
        site.wait(100)
        site.set(changed)
    site.wait(10)
    site.set(Node("n2", "n", {}, (), "b"))
    looked: list[str] = []
    look = Addresses.pod_by_uid

    def counted(self: Addresses, uid: str) -> Pod | None:
        looked.append(uid)
        return look(self, uid)

    site.records(0)
    header, earliest = make_batch({}, endpoints={"1": EndpointRef("shop", "web", "u0")}).header, site.now - 5 * S
    monkeypatch.setattr(Addresses, "pod_by_uid", counted)
    assert site.enricher._ends.changed_endpoints(header, earliest) == {}
    assert not looked
    assert site.enricher._ends.changed_endpoints(header, site.now - 20 * S) == {1: site.now - 9 * S}
    assert looked == ["u0"]


def test_a_number_that_a_header_spells_in_another_way_means_no_endpoint() -> None:
    site = Site(WEB)
    site.wait(100)
    site.set(relabelled(WEB, role="green"))
    batch = merge(make_batch(
        {"destination": "203.0.113.9", "endpoint": 7, "time_ns": 0}, clock=site.now - 50 * S,
        endpoints={"07": EndpointRef("shop", "web", "u0")},
    ))  # fmt: skip
    [value] = site.enricher.records(batch).values
    assert "pod_name" not in orjson.loads(value)["src"]


def test_the_workload_is_that_of_then() -> None:
    made = Workload("ReplicaSet", "shop", "web-abc", "r", Owner("Deployment", "web"))
    site = Site(WEB, made)
    site.wait(100)
    site.set(Workload("ReplicaSet", "shop", "web-abc", "r", Owner("Deployment", "adopter")))
    site.wait(60)
    assert [peer.get("workload_name") for peer in site.peers(*AGES, 60)] == ["web", "adopter", "adopter", None]
    site.set(msgspec.structs.replace(WEB, owner=None))
    site.wait(60)
    assert [peer.get("workload_name") for peer in site.peers(200, 90, 0)] == ["web", "adopter", None]


def test_a_former_owner_of_an_address_is_named_as_of_then() -> None:
    node, service = Node("n2", "n", {}, ("192.0.2.2",), "a"), Service("shop", "old", "s", ("10.96.0.9",))
    site = Site(node, service)
    site.wait(100)
    site.delete(node, service)
    site.wait(20)
    site.set(Node("n3", "m", {}, ("192.0.2.2",), "b"), Service("shop", "new", "t", ("10.96.0.9",)))
    site.wait(40)
    for _ in range(2):
        ends = site.peers(100, 50, 0, destination="192.0.2.2")
        assert [end.get("node_name") for end in ends] == ["n2", None, "n3"]
        assert [end.get("zone") for end in ends] == ["a", None, "b"]
        assert site.dialled("10.96.0.9", 80, 100, 50, 0) == ["old", None, "new"]


def test_services_that_share_an_address_are_told_apart_by_port_and_protocol() -> None:
    shared = ("203.0.113.7", "fd99::7")
    web = Service("shop", "web", "1", ("10.96.0.1",), shared, ((TCP, 80), (TCP, 443)))
    dns = Service("shop", "dns", "2", ("10.96.0.2",), shared, ((UDP, 53),))
    tcp = Service("shop", "dns-tcp", "3", ("10.96.0.3",), (shared[0],), ((TCP, 53),))
    site = Site(web, dns, tcp)
    for ip in shared:
        assert site.dialled(ip, 443, 0) == ["web"]
        assert site.dialled(ip, 53, 0, protocol=UDP) == ["dns"]
        assert site.dialled(ip, 8080, 0) == [None]
    assert site.dialled(shared[0], 53, 0) == ["dns-tcp"]
    site.set(Service("shop", "rival", "4", ("10.96.0.4",), (shared[0],), ((TCP, 443),)))
    site.wait(10)
    assert site.dialled(shared[0], 443, 20, 0) == ["web", None], "from then on two of them claim it"
    assert site.dialled("10.96.0.1", 9999, 0) == ["web"], "a cluster IP is one Service's"


def test_a_nodes_address_and_a_node_port_are_the_service_at_that_time() -> None:
    node = Node("n2", "n", {}, ("192.0.2.2", "fd99::2"))
    web = Service("shop", "web", "1", ("10.96.0.1",), (), ((TCP, 80), (UDP, 80)), ((TCP, 30080), (UDP, 30081)))
    site = Site(node, web)
    for ip in node.ips:
        assert site.dialled(ip, 30080, 0) == ["web"]
        assert site.dialled(ip, 30081, 0, protocol=UDP) == ["web"]
        assert site.dialled(ip, 30080, 0, protocol=UDP) == site.dialled(ip, 80, 0) == [None]
    assert site.dialled("192.0.2.9", 30080, 0) == [None], "no node has that address"
    site.wait(100)
    site.delete(web)
    site.wait(20)
    site.set(Service("shop", "next", "2", ("10.96.0.2",), (), ((TCP, 80),), ((TCP, 30080),)))
    site.wait(40)
    for _ in range(2):
        assert site.dialled("192.0.2.2", 30080, 100, 50, 0) == ["web", None, "next"]
    site.set(Node("n2", "n", {}, ("192.0.2.3",)))
    site.wait(10)
    assert site.dialled("192.0.2.2", 30080, 20, 0) == ["next", None]
    assert site.dialled("192.0.2.3", 30080, 0) == ["next"]


def test_services_that_dispute_a_nodes_address_hide_the_node_port() -> None:
    node, web = Node("n2", "n", {}, ("192.0.2.2",)), Service("shop", "web", "1", (), (), (), ((TCP, 30080),))
    site = Site(node, web, *(Service("bad", f"s{n}", f"b{n}", (), node.ips, ((TCP, 30080),)) for n in range(2)))
    assert site.dialled("192.0.2.2", 30080, 0) == [None]
    site.delete(Service("bad", "s0", "b0", (), node.ips, ((TCP, 30080),)))
    site.wait(10)
    assert site.dialled("192.0.2.2", 30080, 0) == ["s1"], "kube-proxy takes an external address for the first"


def test_a_pods_address_as_external_address_is_the_service_where_it_was_dialled_and_the_pod_where_not() -> None:
    site = Site(WEB, Service("shop", "odd", "1", ("10.96.0.1",), ("10.0.0.1",), ((TCP, 80),)))
    assert site.dialled("10.0.0.1", 80, 0) == ["odd"]
    assert site.dialled("10.0.0.1", 81, 0) == [None]
    assert [peer["pod_name"] for peer in site.peers(0)] == ["web"]


TUNNELLED = Node("n3", "n", {}, ("192.0.2.3",), "a", ("10.0.3.0/24",), ("172.16.0.3",), ("10.0.3.0", "10.0.3.1"))
NEIGHBOUR = Pod("shop", "near", "u3", {}, ("10.0.3.7",), "n3", started_ns=1)


@pytest.mark.parametrize("ip", ["10.0.3.0", "10.0.3.1", "172.16.0.3"])
def test_tunnel_and_bridge_addresses_are_the_nodes_and_wait_for_nothing(ip: str) -> None:
    site = Site(TUNNELLED, NEIGHBOUR)
    assert site.peers(5, destination=ip) == [{"node_name": "n3", "zone": "a"}]
    assert site.peers(5, destination=ip, until_age=30) == [{"node_name": "n3", "zone": "a"}]
    batch = merge(make_batch({"destination": ip, "endpoint": 0}))
    assert site.enricher.lookup(batch).unsettled is None
    site.wait(100)
    site.delete(TUNNELLED)
    site.wait(60)
    assert [end.get("node_name") for end in site.peers(100, 0, destination=ip)] == ["n3", None]


@pytest.mark.parametrize("node_first", [True, False])
def test_addresses_that_a_plugin_gives_to_pods_are_never_taken_for_a_nodes(*, node_first: bool) -> None:
    pod = Pod("shop", "first", "u4", {}, ("10.0.3.1",), "n1", started_ns=1)
    site = Site(NEIGHBOUR)
    if node_first:
        site.set(TUNNELLED)
        assert site.peers(5, destination="10.0.3.0")[0]["node_name"] == "n3"
    site.set(pod, TUNNELLED)
    assert "node_name" not in site.peers(5, destination="10.0.3.0")[0]
    assert site.peers(0, destination="10.0.3.1")[0]["pod_name"] == "first"
    assert site.peers(5, destination="172.16.0.3")[0]["node_name"] == "n3", "an annotation says this one"


@pytest.mark.parametrize("is_used_again", [True, False])
def test_a_verdict_older_than_the_intervals_in_memory_is_ambiguous_and_names_no_later_owner(
    *, is_used_again: bool
) -> None:
    """A worker that starts after an outage reads intervals that ended before the retention, and keeps none of them."""
    site = Site(tail_s=60)
    site.wait(1000)
    for uid, first, last in (("old", 900, 500), ("new", 400, None)):
        if is_used_again or last:
            begin, end = site.now - first * S, None if last is None else site.now - last * S
            interval = AddressInterval(
                cluster="c-1", node="n1", ip="10.0.0.1", uid=uid, namespace="shop", pod=uid, first=begin, start=begin,
                end=end, last=end,
            )  # fmt: skip
            site.cluster.addresses.add_interval(interval)
    ambiguous = {"instance": "10.0.0.1", "ambiguous": True}
    assert site.peers(700, 450) == [ambiguous, ambiguous]
    assert site.peers(700, destination="203.0.113.9") == [{"instance": "203.0.113.9"}]
    assert site.cluster.addresses.size() == (2 if is_used_again else 0)
    if is_used_again:
        assert [one.get("pod_name") for one in site.peers(390, 0)] == ["new", "new"]


def test_with_the_api_server_away_an_interval_of_a_probe_names_its_pod() -> None:
    site = Site(msgspec.structs.replace(WEB, ips=("10.0.0.1", "10.0.0.9")))
    site.cluster.addresses.add_interval(interval())
    named, old = site.peers(5, 60, until_age=30)
    assert (named["pod_name"], named["namespace"], named["labels"]) == ("web", "shop", {}), "labels may have changed"
    assert old["labels"] == WEB.labels
    assert site.peers(5, destination="10.0.0.9", until_age=30) == [{"instance": "10.0.0.9", "ambiguous": True}]
    # What the probes have published since is not read yet.
    site.cluster.addresses.reported_until_ns = lambda: site.now - 10 * S
    assert site.peers(5, until_age=30) == [{"instance": "10.0.0.1", "ambiguous": True}]


def test_with_the_api_server_away_an_interval_that_another_may_follow_names_no_pod() -> None:
    site = Site(WEB)
    site.cluster.addresses.add_interval(interval())
    other = {"uid": "u8", "pod": "next", "node": "n2", "first": site.now - 20 * S, "start": site.now - 20 * S}
    site.cluster.addresses.add_interval(msgspec.structs.replace(interval(), **other))
    assert site.peers(5, until_age=30) == [{"instance": "10.0.0.1", "ambiguous": True}]


def test_with_the_api_server_away_a_new_pods_interval_is_believed_for_longer_than_a_minute() -> None:
    site = Site()
    since = site.now
    site.cluster.addresses.watched_until_ns = lambda: since
    site.cluster.addresses.add_interval(interval())
    site.wait(300)
    site.cluster.addresses.add_interval(msgspec.structs.replace(interval(), ip="10.0.0.7", uid="u7"))
    assert site.peers(5, until_age=30)[0]["pod_name"] == "web"
    site.cluster.addresses.watched_until_ns = lambda: site.now
    site.set(Node("n9", "n", {}))
    assert site.peers(5)[0] == {"instance": "10.0.0.1", "ambiguous": True}, "the watch would know it"


def test_names_of_the_index_itself_are_the_present_ones() -> None:
    site = Site(TUNNELLED, Service("shop", "web", "s", ("10.96.0.1",)))
    assert site.cluster.node_of_ip("192.0.2.3") == TUNNELLED
    assert site.cluster.node_of_ip("10.0.3.0") is None, "policy does not mean it"
    found = site.cluster.service_of("10.96.0.1")
    assert found is not None
    assert found.key == Name("shop", "web")
