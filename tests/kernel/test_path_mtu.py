"""Path MTU discovery and closed ports of real connections, through NAT and all hooks, to pods that let in nothing else.

The path has a hop with a smaller MTU than both ends know of, so a connection that does not learn of it hangs.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from netns import PATIENCE_S, Space, ip, listen, open_socket

from tests.kernel.rig import FAMILIES, Rig, both, of
from tests.kernel.site import VIP, Site, service

pytestmark = pytest.mark.kernel

SMALL, SIZE = 1400, 300_000
MTU_OPTION = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}
"""IP_MTU in linux/in.h, IPV6_MTU in linux/in6.h: the path's MTU as a connected socket knows it."""
FAR = [{"podSelector": {"matchLabels": {"app": "far"}}}]


@pytest.fixture(params=["routed", "bridged"])
def site(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(rig, request.param)
    rig.services += VIP.values()
    rig.elsewhere("a/far", *made.remote.addresses)
    yield made
    made.close()


def only(rig: Rig, **rules: object) -> None:
    """Close the client but for these rules, both ways."""
    rig.policy("a/client", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Ingress", "Egress"], **rules)
    rig.apply()


def deliver(sender: socket.socket, receiver: socket.socket, family: int) -> int:
    """Send more than the path's first window. Return the MTU that the sender has learnt."""
    left = [SIZE]

    def read() -> None:
        while left[0] and (data := receiver.recv(1 << 16)):
            left[0] -= len(data)

    sender.settimeout(PATIENCE_S)
    receiver.settimeout(PATIENCE_S)
    reader = threading.Thread(target=read)
    reader.start()
    sender.sendall(bytes(SIZE))
    reader.join(PATIENCE_S)
    assert left == [0]
    return sender.getsockopt(*MTU_OPTION[family])


def narrow(site: Site, at: str) -> None:
    """Make the link behind the other node's router, or the own node's uplink, a small hop."""
    space, device = (site.rig.node, "up0") if at == "node" else (site.other, site.remote.link)
    ip(space, f"link set {device} mtu {SMALL}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", ["router", "node"])
def test_a_pod_that_may_call_one_port_learns_of_a_small_hop(site: Site, family: int, at: str) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    only(rig, egress=[{"to": FAR, "ports": [{"port": 8080}]}])
    narrow(site, at)
    with listen(site.remote, family, 8080) as server, open_socket(client, family, socket.SOCK_STREAM) as here:
        here.connect((site.remote.address(family), 8080))
        with server.accept()[0] as there:
            assert deliver(here, there, family) == SMALL
    assert not of(rig.seen(), verdict="deny", subject="a/client", port=(1 << 8) + 4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", ["router", "node"])
def test_a_pod_that_may_be_called_on_one_port_learns_of_a_small_hop(site: Site, family: int, at: str) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    only(rig, ingress=[{"from": FAR, "ports": [{"port": 8080}]}])
    narrow(site, at)
    with listen(client, family, 8080) as server, open_socket(site.remote, family, socket.SOCK_STREAM) as there:
        there.connect((client.address(family), 8080))
        with server.accept()[0] as here:
            assert deliver(here, there, family) == SMALL


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masquerade", ["", "ct status dnat"])
def test_a_pod_learns_of_a_small_hop_behind_a_service(site: Site, family: int, masquerade: str) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    site.proxy(service(family, site.remote), masquerade=masquerade)
    only(rig, egress=[{"to": FAR, "ports": [{"port": 8080}]}])
    narrow(site, "router")
    with listen(site.remote, family, 8080) as server, open_socket(client, family, socket.SOCK_STREAM) as here:
        here.connect((VIP[family], 80))
        with server.accept()[0] as there:
            assert deliver(here, there, family) == SMALL


def is_refused(client: Space, family: int, port: int) -> bool:
    """Whether a datagram to the Service is answered by "port unreachable"."""
    with open_socket(client, family, socket.SOCK_DGRAM) as here:
        here.connect((VIP[family], port))
        here.send(b"?")
        try:
            here.recv(10)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
    raise AssertionError


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masquerade", ["", "ct status dnat"])
def test_a_pod_hears_that_a_services_backend_is_closed(site: Site, family: int, masquerade: str) -> None:
    """A backend that may send nothing says so itself, of this node and of another."""
    rig = site.rig
    client, near = both(rig, "a/client", 1), both(rig, "a/near", 2)
    rig.policy("a/near", podSelector={"matchLabels": {"app": "near"}}, policyTypes=["Ingress", "Egress"],
               ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                         "ports": [{"port": 8080, "protocol": "UDP"}]}])  # fmt: skip
    near_or_far = [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["near", "far"]}]}}]
    only(rig, egress=[{"to": near_or_far, "ports": [{"port": 8080, "protocol": "UDP"}]}])
    for backend in (near, site.remote):
        site.proxy(service(family, backend, protocol="udp"), masquerade=masquerade)
        assert is_refused(client, family, 80)
