"""Who gets through, and what the rows say of it: real packets, both families, TCX and clsact."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from netns import MOMENT_S, PATIENCE_S, connects, gets_no_answer, listen, open_socket, ping, sysctl

from tests.kernel.rig import FAMILIES, Rig, both, of

pytestmark = pytest.mark.kernel

TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}


@pytest.fixture
def few_addresses(rig: Rig) -> Iterator[None]:
    """Give the node no link-local address for each veth: the kernel adds it a moment later, between two passes."""
    sysctl(rig.node, "net.ipv6.conf.default.addr_gen_mode=1")
    yield
    sysctl(rig.node, "net.ipv6.conf.default.addr_gen_mode=0")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_allowed_connection_names_every_policy_that_allows_it(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/by-pod", **TO_SERVER, ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}])
    rig.policy("a/by-port", **TO_SERVER, ingress=[{"ports": [{"port": 80}, {"port": 90, "endPort": 99}]}])
    rig.apply()
    with listen(server, family, 80), listen(server, family, 100):
        assert connects(client, server.address(family), 80)
        assert connects(client, server.address(family), 100)
    seen = of(rig.seen(), subject="a/server")
    assert [(row.verdict, row.reason, row.port, row.policies) for row in seen] == [
        ("allow", "policy", 80, ("a/by-pod", "a/by-port")),
        ("allow", "policy", 100, ("a/by-pod",)),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_denied_connection_names_the_policies_that_isolate(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/none", **TO_SERVER, ingress=[])
    rig.policy("a/other", **TO_SERVER, ingress=[{"ports": [{"port": 81}]}])
    rig.apply()
    with listen(server, family, 80):
        assert gets_no_answer(client, server.address(family), 80)
    (out, into) = rig.seen()
    assert (out.subject, out.direction, out.verdict, out.reason) == ("a/client", "egress", "allow", "no_policy")
    assert (into.subject, into.direction, into.verdict, into.reason) == ("a/server", "ingress", "deny", "default_deny")
    assert into.policies == ("a/none", "a/other")
    assert (into.source, into.destination, into.port) == (client.address(family), server.address(family), 80)


@pytest.mark.parametrize("family", FAMILIES)
def test_egress_is_judged_at_the_client(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"],
               egress=[{"to": [TO_SERVER], "ports": [{"port": 80}]}])  # fmt: skip
    rig.apply()
    with listen(server, family, 80), listen(server, family, 81):
        assert connects(client, server.address(family), 80)
        assert gets_no_answer(client, server.address(family), 81)
    assert [row.subject for row in of(rig.seen(), verdict="deny")] == ["a/client"]


def test_a_named_port_is_the_destinations(rig: Rig) -> None:
    client = both(rig, "a/client", 1)
    one = both(rig, "a/one", 2, ports=[{"name": "web", "containerPort": 8001}])
    two = both(rig, "a/two", 3, ports=[{"name": "web", "containerPort": 8002}])
    rig.policy("a/web", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"],
               egress=[{"ports": [{"port": "web"}]}])  # fmt: skip
    rig.apply()
    with listen(one, 4, 8001), listen(two, 4, 8002), listen(two, 4, 8001):
        assert connects(client, one.address(4), 8001)
        assert connects(client, two.address(4), 8002)
        assert gets_no_answer(client, two.address(4), 8001)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_has_a_hole(rig: Rig, family: int) -> None:
    client, hole, server = both(rig, "a/client", 1), both(rig, "a/hole", 9), both(rig, "a/server", 2)
    cidr, out = (("10.244.0.0/16", "10.244.0.8/29"), ("fd44::/64", "fd44::8/125"))[family == 6]
    rig.policy("a/block", **TO_SERVER, ingress=[{"from": [{"ipBlock": {"cidr": cidr, "except": [out]}}]}])
    rig.apply()
    with listen(server, family, 80):
        assert connects(client, server.address(family), 80)
        assert gets_no_answer(hole, server.address(family), 80)


@pytest.mark.parametrize("family", FAMILIES)
def test_udp_and_echo_replies_pass_and_requests_do_not(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/closed", podSelector={"matchLabels": {"app": "client"}}, ingress=[])
    rig.apply()
    assert ping(client, server.address(family))
    assert not ping(server, client.address(family), MOMENT_S)
    with (
        open_socket(server, family, socket.SOCK_DGRAM) as there,
        open_socket(client, family, socket.SOCK_DGRAM) as here,
    ):
        there.bind((server.address(family), 53))
        here.sendto(b"question", (server.address(family), 53))
        _, asker = there.recvfrom(100)
        there.sendto(b"answer", asker)
        assert here.recv(100) == b"answer"
        # From the same server, but not from the port that was asked: no reply.
        with open_socket(server, family, socket.SOCK_DGRAM) as other:
            other.sendto(b"lie", asker[:2])
            here.settimeout(0.3)
            with pytest.raises(TimeoutError):
                here.recv(100)


def test_an_icmp_error_about_a_known_flow_passes(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/closed", podSelector={"matchLabels": {"app": "client"}}, ingress=[])
    rig.apply()
    for family in FAMILIES:
        with open_socket(client, family, socket.SOCK_DGRAM) as here:
            here.connect((server.address(family), 9))
            here.send(b"nobody there")
            with pytest.raises(ConnectionRefusedError):
                here.recv(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_own_node_is_always_let_in_and_another_with_its_address_is_not(rig: Rig, family: int) -> None:
    server, outside = both(rig, "a/server", 2), rig.net.pod(rig.node, "198.51.100.7", "2001:db8:7::7")
    rig.policy("a/none", **TO_SERVER, policyTypes=["Ingress", "Egress"])
    rig.apply()
    with listen(server, family, 80), listen(rig.node, family, 8080):
        assert connects(rig.node, server.address(family), 80)
        assert gets_no_answer(outside, server.address(family), 80)
        assert connects(server, rig.node.address(family), 8080)
    seen = of(rig.seen(), verdict="allow")
    assert {(row.direction, row.reason) for row in seen} == {("ingress", "node"), ("egress", "node")}
    rig.net.remove(outside)


def test_revoking_cuts_an_open_connection_and_allowing_again_mends_it(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/in", **TO_SERVER, ingress=[{"ports": [{"port": 80}]}])
    rig.apply()
    with listen(server, 4, 80) as listening, open_socket(client, 4, socket.SOCK_STREAM) as here:
        here.connect((server.address(4), 80))
        there, _ = listening.accept()
        with there:
            here.send(b"one")
            assert there.recv(10) == b"one"
            rig.policy("a/in", **TO_SERVER, ingress=[])
            rig.apply()
            here.send(b"two")
            there.settimeout(0.5)
            with pytest.raises(TimeoutError):
                there.recv(10)
            # The server's side too, though it is the reply's direction.
            there.send(b"stream")
            here.settimeout(0.3)
            with pytest.raises(TimeoutError):
                here.recv(10)
            assert of(rig.seen(), verdict="deny", subject="a/server", policies=("a/in",))
            rig.policy("a/in", **TO_SERVER, ingress=[{"ports": [{"port": 80}]}])
            rig.apply()
            there.settimeout(PATIENCE_S)
            assert there.recv(10) == b"two"


def test_a_pod_that_is_not_ready_is_closed_and_one_without_policy_is_open(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with listen(server, 4, 80):
        assert connects(client, server.address(4), 80)
        rig.drain()
        rig.maps["endpoints"].drop(server.index.to_bytes(4, "little"))
        rig.installer._endpoints.values.pop(server.index.to_bytes(4, "little"))
        assert gets_no_answer(client, server.address(4), 80)
        assert of(rig.seen(), reason="not_ready", direction="ingress")
        rig.apply()
        assert connects(client, server.address(4), 80)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_opens_nothing_and_closes_nothing_on_the_way(rig: Rig, family: int) -> None:
    """What both the old and the new state allow always passes, what both deny never does, through 60 changes."""
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    with (
        open_socket(server, family, socket.SOCK_DGRAM) as always,
        open_socket(server, family, socket.SOCK_DGRAM) as never,
        open_socket(client, family, socket.SOCK_DGRAM) as here,
    ):
        always.bind((server.address(family), 1000))
        never.bind((server.address(family), 2000))
        never.settimeout(0)
        here.bind((client.address(family), 0))
        for change in range(60):
            # Another set, other identities, other rows each time; 1000 is open and 2000 closed in all of them.
            extra = {"podSelector": {"matchLabels": {f"label-{change}": "x"}}}
            rig.policy("a/in", **TO_SERVER, ingress=[
                {"ports": [{"port": 1000 - change % 7, "endPort": 1000 + change, "protocol": "UDP"}]},
                {"from": [extra], "ports": [{"port": 2000, "protocol": "UDP"}]},
            ])  # fmt: skip
            rig.apply()
            here.sendto(b"%d" % change, (server.address(family), 1000))
            here.sendto(b"no", (server.address(family), 2000))
            assert always.recv(10) == b"%d" % change
            with pytest.raises(BlockingIOError):
                never.recv(10)


@pytest.mark.usefixtures("few_addresses")
def test_a_killed_probe_leaves_enforcement_and_its_rows_to_the_next(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.policy("a/in", **TO_SERVER, ingress=[{"ports": [{"port": 80}]}])
    rig.apply()
    with listen(server, 4, 80), listen(server, 4, 81):
        before = rig.ring.producer_number
        rig.crash()
        assert connects(client, server.address(4), 80)
        assert gets_no_answer(client, server.address(4), 81)
        rig.open()
        assert rig.ring.consumer_number == before
        seen = of(rig.seen(), subject="a/server")
        assert [(row.verdict, row.port, row.policies) for row in seen] == [
            ("allow", 80, ("a/in",)),
            ("deny", 81, ("a/in",)),
        ]
        # Nothing changed in the cluster: the maps are what they must be, and no epoch passes.
        done = rig.apply()
        assert (done.addresses, done.endpoints, done.policy_entries, done.port_entries) == (0, 0, 0, 0)
        assert connects(client, server.address(4), 80)
        assert gets_no_answer(client, server.address(4), 81)


@pytest.mark.usefixtures("few_addresses")
def test_a_pod_that_comes_is_one_address_and_one_endpoint(rig: Rig) -> None:
    both(rig, "a/client", 1)
    both(rig, "a/server", 2)
    rig.policy("a/in", **TO_SERVER, ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}])
    rig.apply()
    rig.pod("a/client-2", "10.244.0.3", labels={"app": "client"})
    done = rig.apply()
    assert (done.addresses, done.endpoints, done.policy_entries, done.port_entries) == (1, 1, 0, 0)
