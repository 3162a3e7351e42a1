"""Origins by hash, for packets that lose their stamps: new connections of one pod take none from another."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from netns import Space, open_socket, run

from probe.kernel.adopted_connections import INGRESS, entry
from probe.kernel.layout import ORIGIN
from probe.kernel.stored_connections import OWN, Payer, store_connection
from tests.kernel.rig import FAMILIES, SMALL_LIMIT, Rig, both
from tests.kernel.site import Site

pytestmark = pytest.mark.kernel

FLOWS = 20


@pytest.fixture
def site(small: Rig) -> Iterator[Site]:
    made = Site(small, "routed")
    made.proxy(masquerade="meta l4proto udp")
    yield made
    made.close()


def take_stamps(rig: Rig, pod: Space) -> None:
    """Have another filter behind ours write its class to tc_index."""
    run(rig.node, "sh", "-c", f"tc qdisc add dev {pod.link} clsact 2>/dev/null; true")
    run(rig.node, "tc", "filter", "add", "dev", pod.link, "ingress", "prio", "10", "protocol", "all",
        "u32", "match", "u32", "0", "0", "classid", "1:7")  # fmt: skip


def hashes_of(rig: Rig, name: str) -> set[bytes]:
    """Return the hashes under which the origins of a pod are stored."""
    keys, origins = rig.maps["origins"].entries()
    own = origins["endpoint"] == rig.installer.endpoints[rig.pods[name].index]
    return {key.tobytes() for key in keys[own]}


def send_each(pod: Space, family: int, to: Space, ports: range) -> None:
    with open_socket(pod, family, socket.SOCK_DGRAM) as here:
        for port in ports:
            here.sendto(b"x", (to.address(family), port))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flood_of_new_connections_takes_no_origin_from_another_pod(site: Site, family: int) -> None:
    rig = site.rig
    client, evil = both(rig, "a/client", 1), both(rig, "b/evil", 2)
    rig.apply()
    for pod in (client, evil):
        take_stamps(rig, pod)
    send_each(client, family, site.remote, range(1000, 1000 + FLOWS))
    known = hashes_of(rig, "a/client")
    assert len(known) == FLOWS
    room = rig.maps["origins"].max_entries
    # The exits look these up as well, so the kernel does not take them for the least recently used ones.
    send_each(evil, family, site.remote, range(1000, 1000 + 3 * room))
    assert hashes_of(rig, "a/client") == known
    assert len(hashes_of(rig, "b/evil")) <= len(rig.flows_of("b/evil")) <= 2 * SMALL_LIMIT


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_with_another_hash_than_before_leaves_no_origin_behind(site: Site, family: int) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    rig.apply()
    # Each connected socket has a hash of its own, although all are one connection to us.
    for _ in range(FLOWS):
        with open_socket(client, family, socket.SOCK_DGRAM) as here:
            here.bind((client.address(family), 4000))
            here.connect((site.remote.address(family), 53))
            here.send(b"x")
    assert len(hashes_of(rig, "a/client")) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_entry_of_an_older_connection_has_the_origin_of_the_one_before(site: Site, family: int) -> None:
    rig = site.rig
    client = both(rig, "a/client", 1)
    rig.apply()
    send_each(client, family, site.remote, range(1000, 1001))
    (origin,) = hashes_of(rig, "a/client")
    keys, values = rig.maps["connections"].entries()
    (key,) = keys[values["hash"] == int.from_bytes(origin, "little")]
    number = rig.installer.endpoints[client.index]
    assert store_connection(rig.maps, key.tobytes(), entry(INGRESS, 0), Payer(number, OWN))
    stored = rig.maps["connections"].get(key.tobytes())
    assert stored is not None
    assert (int(stored["direction"]), int(stored["hash"])) == (INGRESS, int.from_bytes(origin, "little"))


@pytest.mark.parametrize("family", FAMILIES)
def test_flows_of_an_interface_without_an_endpoint_take_no_origin_from_a_pod(site: Site, family: int) -> None:
    rig = site.rig
    client, new = both(rig, "a/client", 1), both(rig, "b/new", 2)
    pod = rig.objects.pop("b/new")
    rig.attachments.attach(new.index)
    rig.apply()
    send_each(client, family, site.remote, range(1000, 1000 + FLOWS))
    stored = len(rig.maps["origins"].entries()[0])
    with open_socket(rig.node, family, socket.SOCK_DGRAM) as node:
        node.bind((rig.node.address(family), 2000))
        send_each(new, family, rig.node, range(2000, 2000 + FLOWS))
        assert node.recv(10) == b"x"
        assert len(rig.maps["origins"].entries()[0]) == stored
        # Other flows have taken all places a moment ago: the packet would have no origin at an exit.
        taken = np.zeros(1, ORIGIN)
        taken["time_ns"], taken["hash"] = time.monotonic_ns(), 1
        cells = rig.maps["unready_origins"]
        for index in range(cells.max_entries):
            cells.set(index.to_bytes(4, "little"), taken.tobytes())
        send_each(new, family, rig.node, range(2000, 2001))
        for index in range(cells.max_entries):
            cells.set(index.to_bytes(4, "little"), bytes(ORIGIN.itemsize))
        with open_socket(new, family, socket.SOCK_DGRAM) as here:
            here.sendto(b"after", (rig.node.address(family), 2000))
        assert node.recv(10) == b"after"
    rig.objects["b/new"] = pod
