"""An interface that carries the programs and has no endpoint yet: only its own node can be reached."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from netns import MOMENT_S, PATIENCE_S, Space, connects, gets_no_answer, listen, open_socket

from probe.kernel.tunnel_ports import set_tunnel_ports
from tests.kernel.rig import FAMILIES, Rig, both, of
from tests.kernel.site import NODE_PORT, Site, node_port
from tests.waiting import until

pytestmark = pytest.mark.kernel

PORT = 8080


@pytest.fixture(params=["routed", "bridged"])
def site(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(rig, request.param)
    yield made
    made.close()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def unknown(site: Site) -> Space:
    """Make a pod whose interface is closed, beside a pod that is bound."""
    rig = site.rig
    both(rig, "shop/server", 1)
    space = both(rig, "shop/new", 2)
    pod = rig.objects.pop("shop/new")
    rig.attachments.attach(space.index)
    rig.apply()
    rig.objects["shop/new"] = pod
    return space


def test_kubelet_and_an_unknown_pod_reach_each_other(site: Site, unknown: Space, family: int) -> None:
    node = site.rig.node
    with listen(unknown, family, PORT):
        assert connects(node, unknown.address(family), PORT)
    with listen(node, family, PORT):
        assert connects(unknown, node.address(family), PORT)


def test_an_unknown_pod_reaches_nobody_else(site: Site, unknown: Space, family: int) -> None:
    rig = site.rig
    server, world = rig.pods["shop/server"], site.remote
    for other in (server, world):
        with listen(other, family, PORT), listen(unknown, family, PORT):
            assert gets_no_answer(unknown, other.address(family), PORT)
            assert gets_no_answer(other, unknown.address(family), PORT)
    denied = [seen for seen in rig.seen() if seen.verdict == "deny"]
    assert {seen.reason for seen in denied} == {"not_ready"}
    assert {seen.direction for seen in denied} == {"egress", "ingress"}


def test_the_nodes_address_leads_an_unknown_pod_nowhere_else(site: Site, unknown: Space, family: int) -> None:
    """A NodePort is an address of the node until DNAT has turned it into a pod's."""
    rig = site.rig
    server = rig.pods["shop/server"]
    site.proxy(node_port(family, rig.node, server))

    def is_denied_behind_dnat() -> bool:
        # The pod's own hook denies a flow whose place an earlier test's flow took in the last seconds.
        assert gets_no_answer(unknown, rig.node.address(family), NODE_PORT)
        return bool(of(rig.seen(), verdict="deny", reason="not_ready", destination=server.address(family)))

    with listen(server, family, PORT):
        until(is_denied_behind_dnat)
    rig.apply()
    with listen(server, family, PORT):
        assert connects(unknown, rig.node.address(family), NODE_PORT)


def test_an_unknown_pod_sends_its_node_datagrams_but_no_tunnel(site: Site, unknown: Space, family: int) -> None:
    node = site.rig.node
    set_tunnel_ports(site.rig.maps, {8472})
    for port, passes in ((5353, True), (8472, False)):
        with contextlib.closing(open_socket(node, family, socket.SOCK_DGRAM)) as receiver:
            receiver.bind(("", port))
            receiver.settimeout(PATIENCE_S if passes else MOMENT_S)
            with contextlib.closing(open_socket(unknown, family, socket.SOCK_DGRAM)) as sender:
                sender.sendto(b"message", (node.address(family), port))
            if passes:
                assert receiver.recv(64) == b"message"
                continue
            until(lambda: bool(of(site.rig.seen(), reason="not_ready", port=8472)))
            with pytest.raises(TimeoutError):
                receiver.recv(64)
