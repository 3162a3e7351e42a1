"""A pod's interface goes, and the next one has the same address before the probe has seen either: what that one sends
is judged as nobody's and told as nobody's, never as the last one's."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator

import msgspec
import pytest
from netns import PATIENCE_S, Space, ip, open_socket, run

from tests.kernel.rig import FAMILIES, Rig, Seen, both, of
from tests.kernel.site import Site
from tests.waiting import until

pytestmark = pytest.mark.kernel

OLD, NEW = "a/old", "a/new"
PORT, SOURCE = 8053, 4053
NOBODY = ("?/?", "egress", "deny", "no_origin")


@pytest.fixture(params=["routed", "bridged"])
def site(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(rig, request.param)
    rig.elsewhere("a/far", *made.remote.addresses)
    yield made
    made.close()


class Receiver:
    """Datagrams that a pod gets, and whether one did."""

    def __init__(self, space: Space, family: int) -> None:
        self.address = space.address(family)
        self._socket = open_socket(space, family, socket.SOCK_DGRAM)
        self._socket.bind(("", PORT))

    def got(self, timeout_s: float) -> set[bytes]:
        """What has come, after the first of it was waited for."""
        found: set[bytes] = set()
        self._socket.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError):
            while True:
                found.add(self._socket.recv(64))
                self._socket.settimeout(0.01)
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["to a pod of the node", "out of the node"])
def receiver(site: Site, family: int, request: pytest.FixtureRequest) -> Iterator[Receiver]:
    """At a pod's ingress, and at an exit."""
    near = both(site.rig, "a/near", 2)
    made = Receiver(near if request.param == "to a pod of the node" else site.remote, family)
    both(site.rig, OLD, 1)
    site.rig.apply()
    yield made
    made.close()


def send(space: Space, family: int, to: str, mark: bytes, source: int = 0) -> None:
    """A datagram. Those of unconnected sockets with the same ends have the same hash, whoever sends them."""
    with open_socket(space, family, socket.SOCK_DGRAM) as out:
        out.bind(("", source))
        out.sendto(mark, (to, PORT))


def about(rig: Rig, address: str) -> set[tuple[str, str, str, str]]:
    """Who is named, and how it was judged, in the rows of what the address has sent; they are waited for."""
    found: list[Seen] = []

    def is_there() -> bool:
        found.extend(of(rig.seen(), source=address, port=PORT))
        return bool(found)

    until(is_there)
    return {(row.subject, row.direction, row.verdict, row.reason) for row in found}


def gone(rig: Rig) -> None:
    """The old pod's interface goes."""
    rig.net.remove(rig.pods.pop(OLD))


def successor(rig: Rig, *addresses: str) -> Space:
    """Another pod with the old one's addresses, that no probe has seen."""
    rig.pods[NEW] = rig.connect(rig.node, *addresses)
    return rig.pods[NEW]


def bind(rig: Rig) -> None:
    """The probe hears of it."""
    rig.objects[NEW] = msgspec.structs.replace(rig.objects.pop(OLD), name="new", uid=secrets.token_hex(8))
    rig.apply()


def test_what_an_unknown_successor_sends_is_nobodys(site: Site, receiver: Receiver, family: int) -> None:
    rig, old = site.rig, site.rig.pods[OLD]
    address = old.address(family)
    send(old, family, receiver.address, b"old")
    assert receiver.got(PATIENCE_S) == {b"old"}
    assert (OLD, "egress", "allow", "no_policy") in about(rig, address)
    gone(rig)
    new = successor(rig, *old.addresses)
    send(new, family, receiver.address, b"not yet")
    assert about(rig, address) == {NOBODY}
    assert not receiver.got(0.05)
    bind(rig)
    send(new, family, receiver.address, b"new")
    assert receiver.got(PATIENCE_S) == {b"new"}
    named = about(rig, address)
    assert (NEW, "egress", "allow", "no_policy") in named
    assert OLD not in {row[0] for row in named}


@pytest.mark.parametrize(
    ("site", "receiver"),
    # Not behind a bridge: nothing there tells apart two ports that have one address (decision 002).
    [("routed", "to a pod of the node"), ("routed", "out of the node"), ("bridged", "to a pod of the node")],
    indirect=True,
)
def test_nor_is_it_the_old_ones_while_that_ones_interface_is_still_there(
    site: Site, receiver: Receiver, family: int
) -> None:
    """The CNI plugin ptp frees a pod's address before it removes the interface."""
    rig, old = site.rig, site.rig.pods[OLD]
    address = old.address(family)
    if site.wiring == "routed":
        ip(rig.node, *(f"route del {one} dev {old.link}" for one in old.addresses))
    send(successor(rig, *old.addresses), family, receiver.address, b"not yet")
    assert about(rig, address) == {NOBODY}
    assert not receiver.got(0.05)


def test_a_connection_with_the_same_ends_is_not_the_old_ones(site: Site, family: int) -> None:
    """What the exit knows of a flow by its hash may be of the old pod's flow."""
    rig = site.rig
    rig.others.clear()  # what goes to no pod's address is judged at the exit too
    both(rig, OLD, 1)
    rig.apply()
    old = rig.pods[OLD]
    address = old.address(family)
    with contextlib.closing(Receiver(site.remote, family)) as receiver:
        send(old, family, receiver.address, b"old", SOURCE)
        assert receiver.got(PATIENCE_S) == {b"old"}
        assert SOURCE in rig.maps["origins"].entries()[1]["source_port"]
        rig.drain()
        gone(rig)
        send(successor(rig, *old.addresses), family, receiver.address, b"not yet", SOURCE)
        assert about(rig, address) == {NOBODY}
        assert not receiver.got(0.05)


def test_a_bound_pods_packets_without_a_stamp_are_its_own(site: Site, receiver: Receiver, family: int) -> None:
    """Another's filter behind ours takes the stamp away: whose it is, is seen by the source."""
    rig = site.rig
    old = rig.pods[OLD]
    address = old.address(family)
    run(rig.node, "sh", "-c", f"tc qdisc add dev {old.link} clsact 2>/dev/null; true")
    run(rig.node, "tc", "filter", "add", "dev", old.link, "ingress", "prio", "10", "protocol", "all",
        "u32", "match", "u32", "0", "0", "classid", "1:7")  # fmt: skip
    for key in rig.maps["origins"].items():
        rig.maps["origins"].drop(key)
    send(old, family, receiver.address, b"old")
    assert receiver.got(PATIENCE_S) == {b"old"}
    assert {row[0] for row in about(rig, address)} <= {OLD, "a/near"}
