"""Reports of connections to Services add up to the interface's counters, and have each packet with its verdict."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from netns import Space, open_socket

from probe.kernel.ends import report_all
from tests.kernel.carried import PORT, TCP, UDP, Array, Others, age, exchange, names, receiving, reports, sweep
from tests.kernel.rig import FAMILIES, WITH_ENDS, Rig, both
from tests.kernel.site import NODE_PORT, VIP, Site, node_port, service

pytestmark = pytest.mark.kernel

EXTERNAL = {4: "203.0.113.80", 6: "2001:db8:80::80"}
HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}
SIZES = (1, 1000, 4000)
"""Of datagrams; the last one leaves in three fragments."""


@pytest.fixture(scope="module")
def own_sizes() -> Mapping[str, int]:
    return WITH_ENDS


@pytest.fixture
def site(_of_module: Rig) -> Iterator[Site]:
    made = Site(_of_module, "routed")
    _of_module.services += [*VIP.values(), *EXTERNAL.values()]
    yield made
    made.close()
    _of_module.reset()
    report_all(_of_module.maps)
    reports(_of_module)


def of_end(rig: Rig, found: Array, pod: Space) -> Array:
    """Return the reports about TCP and UDP of a pod's end."""
    verdicts = found["verdict"]
    mine = (verdicts["endpoint"] == rig.installer.endpoints[pod.index]) & np.isin(verdicts["protocol"], [TCP, UDP])
    chosen: Array = found[mine]
    return chosen


def datagrams(client: Space, server: Space, family: int, to: tuple[str, int]) -> None:
    """Send datagrams, of which each is answered."""
    with open_socket(client, family, socket.SOCK_DGRAM) as out, receiving(server, family) as back:
        for size in SIZES:
            out.sendto(bytes(size), to)
            answered = back.recvfrom(8000)
            back.sendto(answered[0], answered[1])
            out.recv(8000)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_connections_to_services_carried_is_what_the_interfaces_have_counted(site: Site, family: int) -> None:
    rig = site.rig
    client, one = both(rig, "a/client", 1), both(rig, "a/one", 2)
    rig.elsewhere("a/far", *site.remote.addresses)
    rig.apply()
    others = {pod.name: Others(rig, pod) for pod in (client, one)}
    first = rig.ring.next_number
    for backend in (one, site.remote):
        external = service(family, backend).replace(VIP[family], EXTERNAL[family])
        site.proxy(service(family, backend), service(family, backend, 53, PORT, "udp"), external,
                   node_port(family, rig.node, backend))  # fmt: skip
        for address, port in ((VIP[family], 80), (EXTERNAL[family], 80)):
            exchange(client, backend, family, to=(address, port))
        datagrams(client, backend, family, (VIP[family], 53))
        if backend is one:
            exchange(client, backend, family, to=(rig.node.address(family), NODE_PORT))
            exchange(site.remote, backend, family, to=(rig.node.address(family), NODE_PORT))
    carried = {pod.name: others[pod.name].carried() for pod in (client, one)}
    assert not report_all(rig.maps)
    found, verdicts = reports(rig), rig.drain()
    # The node's address is logged as it was dialled, too. Its packets are those of the backend's verdict.
    for pod, connections in ((client, 8), (one, 5)):
        mine = of_end(rig, found, pod)
        assert [mine[name][:, way].sum() for way in (0, 1) for name in ("packets", "bytes")] == carried[pod.name]
        assert len(mine) == connections
        for end in mine:
            assert verdicts[int(end["number"]) - first] == end["verdict"]
        dialled = mine[mine["verdict"]["destination_port"] == NODE_PORT]
        assert dialled["packets"].tolist() == [[0, 0]] * len(dialled)
    udp = of_end(rig, found, client)
    udp = udp[udp["verdict"]["protocol"] == UDP]
    assert udp["packets"].tolist() == [[5, 5], [5, 5]], "to each backend, with fragments"


@pytest.mark.parametrize("pause_s", [0, 0.2], ids=["fast path", "judged in full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_packet_that_opens_the_next_verdict_is_that_verdicts(site: Site, family: int, pause_s: float) -> None:
    """A UDP socket sends to a Service, whose backend changes twice: to a pod here, another one here, one far away."""
    rig = site.rig
    client, one, two = both(rig, "a/client", 1), both(rig, "a/one", 2), both(rig, "a/two", 3)
    rig.elsewhere("a/far", *site.remote.addresses)
    rig.apply()
    sizes = [[100, 10], [200], [300, 30, 3]]
    with open_socket(client, family, socket.SOCK_DGRAM) as out:
        for backend, sent in zip((one, two, site.remote), sizes, strict=True):
            with receiving(backend, family) as back:
                site.proxy(service(family, backend, 53, PORT, "udp"))
                site.forget_flows()
                for size in sent:
                    out.sendto(bytes(size), (VIP[family], 53))
                    assert len(back.recv(1000)) == size
                    time.sleep(pause_s)
    age(rig, 200)
    sweep(rig)
    mine = of_end(rig, reports(rig), client)
    assert names(mine) == ["timeout"] * 3
    assert mine["packets"].tolist() == [[len(sent), 0] for sent in sizes]
    assert mine["bytes"].tolist() == [[sum(sent) + len(sent) * HEADERS[family], 0] for sent in sizes]
