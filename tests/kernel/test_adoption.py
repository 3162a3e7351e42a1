"""Connections that are older than the programs, or outlived their entry, go on if policy allows who opened them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from netns import PATIENCE_S, Space, listen, open_socket

from enrich.index.cluster import Cluster, group_by_kind
from probe.kernel.layout import Config
from tests.kernel.pairs import pairwise
from tests.kernel.rig import FAMILIES, Rig, both, of
from tests.kernel.site import VIP, Site, service
from tests.kernel.test_agent import start
from tests.kernel.tracking import tracking

pytestmark = pytest.mark.kernel

RETRANSMISSION_S = 1.0
"""For what must not arrive: TCP sends again after 200 ms, then after 400 ms."""
CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}
ONE = {"podSelector": {"matchLabels": {"app": "one"}}}
BOTH_WAYS = {"policyTypes": ["Ingress", "Egress"]}
DIMENSIONS: dict[str, Sequence[Any]] = {
    "site": ["routed", "bridged"],
    "family": list(FAMILIES),
    "first": ["client", "server"],
    "via": ["pod", "service"],
}


def allow(rig: Rig) -> None:
    """The client may reach the server's port 8080; nothing else is allowed in any direction."""
    rig.policy("a/client", **CLIENT, **BOTH_WAYS, egress=[{"to": [ONE], "ports": [{"port": 8080}]}])
    rig.policy("a/one", **ONE, **BOTH_WAYS, ingress=[{"from": [CLIENT], "ports": [{"port": 8080}]}])


def deny(rig: Rig) -> None:
    """Only the opposite is allowed: the server may reach the client, on every port."""
    rig.policy("a/client", **CLIENT, **BOTH_WAYS, ingress=[{"from": [ONE]}])
    rig.policy("a/one", **ONE, **BOTH_WAYS, egress=[{"to": [CLIENT]}])


def says(sender: socket.socket, receiver: socket.socket, seconds: float = PATIENCE_S) -> bool:
    """Return whether data arrives, perhaps by a retransmission."""
    sender.send(b"x")
    receiver.settimeout(seconds)
    try:
        return receiver.recv(100) != b""
    except TimeoutError:
        return False


@contextlib.contextmanager
def connected(client: Space, server: Space, family: int, to: tuple[str, int]) -> Iterator[dict[str, socket.socket]]:
    """Yield both ends of a connection that has been used in both directions."""
    with listen(server, family, 8080) as listening, open_socket(client, family, socket.SOCK_STREAM) as here:
        here.connect(to)
        there, _ = listening.accept()
        with there:
            assert says(here, there)
            assert says(there, here)
            yield {"client": here, "server": there}


def speak(ends: dict[str, socket.socket], first: str, seconds: float = PATIENCE_S) -> list[bool]:
    """Have one end speak, then the other; return whether each was heard."""
    other = "server" if first == "client" else "client"
    return [says(ends[first], ends[other], seconds), says(ends[other], ends[first], seconds)]


@pytest.fixture(params=["routed", "bridged"])
def site(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(rig, request.param)
    rig.services += VIP.values()
    yield made
    made.close()


@pairwise(["site"], **DIMENSIONS, masquerade=[False, True])
def test_a_connection_that_is_older_than_the_programs_goes_on(
    site: Site, family: int, first: str, via: str, masquerade: bool
) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    site.proxy(service(family, one), masquerade="ct status dnat" if masquerade else "")
    to = (one.address(family), 8080) if via == "pod" else (VIP[family], 80)
    with connected(client, one, family, to) as ends:
        allow(rig)
        rig.apply(older=True)
        assert speak(ends, first) == [True, True]
    rows = rig.seen()
    assert {(row.subject, row.direction) for row in of(rows, verdict="allow", reason="adopted")} == {
        ("a/client", "egress"), ("a/one", "ingress"),
    }  # fmt: skip
    assert of(rows, reason="default_deny", port=8080) == []


@pairwise(["site"], **DIMENSIONS)
def test_an_older_connection_that_policy_denies_is_cut_whoever_speaks(
    site: Site, family: int, first: str, via: str
) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    site.proxy(service(family, one))
    to = (one.address(family), 8080) if via == "pod" else (VIP[family], 80)
    with connected(client, one, family, to) as ends:
        deny(rig)
        rig.apply(older=True)
        assert speak(ends, first, RETRANSMISSION_S) == [False, False]
        # Not for ever: the same connection goes on as soon as policy allows it.
        allow(rig)
        rig.apply()
        assert says(ends["client"], ends["server"])


@pairwise(["site"], **DIMENSIONS, masquerade=[False, True])
def test_a_connection_goes_on_that_outlived_its_entry(
    site: Site, family: int, first: str, via: str, masquerade: bool
) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    site.proxy(service(family, one), masquerade="ct status dnat" if masquerade else "")
    allow(rig)
    rig.apply()
    to = (one.address(family), 8080) if via == "pod" else (VIP[family], 80)
    with connected(client, one, family, to) as ends:
        forget_entries(rig)
        assert speak(ends, first) == [True, True]


def test_a_connection_that_the_node_does_not_know_either_stays_cut(site: Site) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    site.proxy(service(4, one))
    allow(rig)
    rig.apply()
    with connected(client, one, 4, (one.address(4), 8080)) as ends:
        forget_entries(rig)
        site.forget_flows()
        assert not says(ends["server"], ends["client"], RETRANSMISSION_S)
        assert {row.reason for row in of(rig.seen(), subject="a/one", direction="egress")} == {"unknown_flow"}
        # In its own direction the client's packet is allowed, and the server's answers follow it.
        assert says(ends["client"], ends["server"])
        assert says(ends["server"], ends["client"])


def forget_entries(rig: Rig) -> None:
    """Remove every connection's entry, as if it had expired. A later epoch of the same side clears the cache."""
    keys, _ = rig.maps["connections"].entries()
    for key in keys:
        rig.maps["connections"].drop(key.tobytes())
    rig.maps.configure(Config.EPOCH, rig.maps.config(Config.EPOCH) + 2)


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_tracking_an_answer_is_believed_only_where_the_pod_is_older(rig: Rig, family: int, older: bool) -> None:
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    with tracking(rig.node, on=False), connected(client, one, family, (one.address(family), 8080)) as ends:
        allow(rig)
        rig.apply(older=older)
        assert says(ends["server"], ends["client"], PATIENCE_S if older else RETRANSMISSION_S) is older
        assert says(ends["client"], ends["server"])


@pytest.mark.parametrize("family", FAMILIES)
def test_without_tracking_an_answer_passes_only_if_policy_allows_what_it_answers(rig: Rig, family: int) -> None:
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    with tracking(rig.node, on=False), connected(client, one, family, (one.address(family), 8080)) as ends:
        rig.policy("a/one", **ONE, **BOTH_WAYS)
        rig.apply(older=True)
        assert speak(ends, "server") == [False, False]
    rows = of(rig.seen(), subject="a/one")
    assert {row.verdict for row in rows} == {"deny"}
    assert ("egress", "unknown_flow") in {(row.direction, row.reason) for row in rows}


@pytest.mark.parametrize("opener", ["pod", "node"])
@pytest.mark.parametrize("family", FAMILIES)
def test_connections_with_the_own_node_go_on(rig: Rig, family: int, opener: str) -> None:
    one = both(rig, "a/one", 2)
    client, server = (one, rig.node) if opener == "pod" else (rig.node, one)
    with tracking(rig.node), connected(client, server, family, (server.address(family), 8080)) as ends:
        rig.policy("a/one", **ONE, **BOTH_WAYS)
        rig.apply(older=True)
        for first in ("server", "client"):
            assert speak(ends, first) == [True, True]
    assert of(rig.seen(), subject="a/one", verdict="deny", port=8080) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_udp_answers_on_their_way_at_the_attach_arrive(rig: Rig, family: int) -> None:
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    with (
        tracking(rig.node),
        open_socket(one, family, socket.SOCK_DGRAM) as there,
        open_socket(client, family, socket.SOCK_DGRAM) as here,
    ):
        there.bind((one.address(family), 53))
        here.sendto(b"?", (one.address(family), 53))
        asker = there.recvfrom(10)[1]
        udp = [{"port": 53, "protocol": "UDP"}]
        rig.policy("a/client", **CLIENT, **BOTH_WAYS, egress=[{"to": [ONE], "ports": udp}])
        rig.policy("a/one", **ONE, **BOTH_WAYS, ingress=[{"from": [CLIENT], "ports": udp}])
        rig.apply(older=True)
        there.sendto(b"!", asker)
        assert here.recv(10) == b"!"


def test_the_agent_reads_older_connections_when_it_attaches(rig: Rig, tmp_path: Path) -> None:
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    rig.stop_adoption()
    allow(rig)
    cluster = Cluster()
    cluster.replace_all(group_by_kind([*rig.objects.values(), *rig.namespaces.values(), *rig.policies.values()]))
    with tracking(rig.node), connected(client, one, 4, (one.address(4), 8080)) as ends:
        agent = start(rig, cluster, tmp_path)
        agent.start(5.0)
        try:
            assert agent.adoption.wait(120)
            assert speak(ends, "server") == [True, True]
        finally:
            agent.stop()
        # Nothing had to be looked up: the entries were there before the first packet.
        assert sum(agent.adoption.lookups.values()) == 0
    assert {row.reason for row in of(rig.seen(), port=8080)} == {"adopted"}
    rig.crash()
    rig.open()


def test_older_connections_that_find_no_place_are_counted_and_looked_up_later(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    rig.stop_adoption()
    allow(rig)
    cluster = Cluster()
    cluster.replace_all(group_by_kind([*rig.objects.values(), *rig.namespaces.values(), *rig.policies.values()]))
    with tracking(rig.node), connected(client, one, 4, (one.address(4), 8080)) as ends:
        with monkeypatch.context() as full:
            full.setattr("probe.kernel.adopted_connections.store_connection", lambda *_: False)
            agent = start(rig, cluster, tmp_path)
            agent.start(5.0)
            assert agent.adoption.wait(120)
        try:
            assert agent.adoption.lookups["failed"] == 2, "an entry at each end"
            assert "the table has no place for older connections" in capsys.readouterr().out
            assert speak(ends, "server") == [True, True]
            assert agent.adoption.lookups["adopted"] > 0
        finally:
            agent.stop()
    rig.crash()
    rig.open()


def test_connections_of_one_pod_are_read_once(rig: Rig) -> None:
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    with tracking(rig.node), connected(client, one, 4, (one.address(4), 8080)) as ends:
        rig.apply(older=True)
        assert speak(ends, "client") == [True, True]
        rig.drain()
        rig.crash()
        rig.open()
        rig.apply()
        assert speak(ends, "client") == [True, True]
        # The next probe finds the connections in the maps, and adopts none again.
        assert rig.seen() == []
