"""Policy is about who receives the packet, not about what a pod dials, by any rule of the node that translates it."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from netns import Space, connects, gets_no_answer, ip, listen, open_socket

from tests.kernel.rig import FAMILIES, Rig, Seen, both, of
from tests.kernel.site import Site
from tests.waiting import until

pytestmark = pytest.mark.kernel

WORLD = {4: "198.51.100.7", 6: "2001:db8:9::7"}


@pytest.fixture(params=["routed", "bridged"])
def site(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(rig, request.param)
    yield made
    made.close()


@pytest.fixture
def pods(site: Site) -> tuple[Space, Space, Space]:
    """Make a client that may reach good and not evil."""
    rig = site.rig
    made = both(rig, "a/client", 1), both(rig, "a/good", 2), both(rig, "b/evil", 3)
    rig.elsewhere("a/far", *site.remote.addresses)
    may_reach(rig, "good", "far")
    return made


def may_reach(rig: Rig, *apps: str, blocks: tuple[str, ...] = ()) -> None:
    peers: list[dict[str, Any]] = [{"podSelector": {"matchLabels": {"app": app}}} for app in apps]
    peers += [{"ipBlock": {"cidr": block}} for block in blocks]
    rig.policy(
        "a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"],
        egress=[{"to": peers}] if peers else [],
    )  # fmt: skip
    rig.apply()


def dnat(family: int, dialled: str, to: str, protocol: str = "tcp") -> str:
    """Return a rule: port 80 of the dialled address becomes port 8080 of another."""
    name, target = ("ip6", f"[{to}]:8080") if family == 6 else ("ip", f"{to}:8080")
    return f"{name} daddr {dialled} {protocol} dport 80 dnat {name} to {target}"


def logged(rig: Rig) -> list[Seen]:
    """Return the client's verdicts of egress, of repeated denials the first."""
    return [one for one in of(rig.seen(), subject="a/client", direction="egress") if one.count == 1]


def described(verdicts: list[Seen]) -> list[tuple[str, str, int, str]]:
    return [(one.verdict, one.destination, one.port, one.dialled) for one in verdicts]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masquerade", ["", "ct status dnat"])
@pytest.mark.parametrize("known", [True, False], ids=["a Service's", "anybody's rule"])
def test_an_allowed_pods_address_does_not_lead_to_a_denied_pod(
    site: Site, pods: tuple[Space, Space, Space], family: int, masquerade: str, known: bool
) -> None:
    """As a tenant does it with a Service whose external IP is another tenant's pod's address."""
    rig, (client, good, evil) = site.rig, pods
    if known:
        rig.services += good.addresses
        rig.apply()
    with listen(good, family, 80), listen(evil, family, 8080):
        assert connects(client, good.address(family), 80)
        assert described(logged(rig)) == [("allow", good.address(family), 80, "")]
        site.proxy(dnat(family, good.address(family), evil.address(family)), masquerade=masquerade)
        assert gets_no_answer(client, good.address(family), 80)
        # Not even when policy is asked again.
        rig.namespace("c")
        rig.policy("c/unrelated", podSelector={})
        rig.apply()
        assert gets_no_answer(client, good.address(family), 80)
    rows = logged(rig)
    assert set(described(rows)) == {("deny", evil.address(family), 8080, good.address(family))}
    assert {row.policies for row in rows} == {("a/out",)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_denied_pods_address_as_a_services_leads_to_an_allowed_pod(
    site: Site, pods: tuple[Space, Space, Space], family: int
) -> None:
    rig, (client, good, evil) = site.rig, pods
    rig.services += evil.addresses
    rig.apply()
    site.proxy(dnat(family, evil.address(family), good.address(family)))
    with listen(good, family, 8080), listen(evil, family, 81):
        assert connects(client, evil.address(family), 80)
        # A port that the Service does not have is the pod's.
        assert gets_no_answer(client, evil.address(family), 81)
    assert described(logged(rig)) == [
        ("allow", good.address(family), 8080, evil.address(family)),
        ("deny", evil.address(family), 81, ""),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_dnat_between_allowed_pods_is_logged_once_with_who_receives(
    site: Site, pods: tuple[Space, Space, Space], family: int
) -> None:
    rig, (client, good, evil) = site.rig, pods
    may_reach(rig, "good", "evil")
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[{}])
    rig.apply()
    site.proxy(dnat(family, good.address(family), evil.address(family)))
    with listen(evil, family, 8080) as listening, open_socket(client, family, socket.SOCK_STREAM) as here:
        here.connect((good.address(family), 80))
        there, _ = listening.accept()
        with there:
            for number in range(20):
                here.send(b"%d" % number)
                assert there.recv(10)
                there.send(b"!")
                assert here.recv(10) == b"!"
            # The final destination's policy applies to the connection as long as it lives.
            may_reach(rig, "good")
            here.send(b"x")
            there.settimeout(0.3)
            with pytest.raises(TimeoutError):
                there.recv(10)
    assert described(logged(rig))[:2] == [
        ("allow", evil.address(family), 8080, good.address(family)),
        ("deny", evil.address(family), 8080, good.address(family)),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_nodes_pods_address_and_the_outside_lead_to_no_denied_pod(
    site: Site, pods: tuple[Space, Space, Space], family: int
) -> None:
    rig, (client, good, evil) = site.rig, pods
    may_reach(rig, "good", "far", blocks=("198.51.100.0/24", "2001:db8:9::/64"))
    far, node = site.remote.address(family), rig.node.address(family)
    with listen(evil, family, 8080), listen(good, family, 8080):
        for dialled in (far, WORLD[family], node):
            site.proxy(dnat(family, dialled, evil.address(family)))
            assert gets_no_answer(client, dialled, 80), dialled
            site.proxy(dnat(family, dialled, good.address(family)))
            assert connects(client, dialled, 80), dialled
    final = [row for row in described(logged(rig)) if row[3]]
    assert final == [
        (verdict, pod.address(family), 8080, dialled)
        for dialled in (far, WORLD[family], node)
        for verdict, pod in (("deny", evil), ("allow", good))
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pods_address_that_leads_to_the_node_is_the_nodes(
    site: Site, pods: tuple[Space, Space, Space], family: int
) -> None:
    rig, (client, good, _) = site.rig, pods
    site.proxy(dnat(family, good.address(family), rig.node.address(family)))
    with listen(rig.node, family, 8080):
        assert connects(client, good.address(family), 80)
    assert [(row.verdict, row.reason) for row in logged(rig)] == [("allow", "node")]


def _entry(rig: Rig, destination: str, port: int) -> Any:
    """Return the client's connection to an address."""
    keys, values = rig.maps["connections"].entries()
    raw = socket.inet_pton(socket.AF_INET6, destination if ":" in destination else f"::ffff:{destination}")
    number = rig.installer.endpoints[rig.pods["a/client"].index]
    found = [
        value
        for key, value in zip(keys, values, strict=True)
        if key["endpoint"] == number and key["remote"].tobytes() == raw and key["remote_port"] == port
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_no_dnat_changes_is_checked_once_and_logged_once(
    site: Site, pods: tuple[Space, Space, Space], family: int
) -> None:
    rig, (client, good, _) = site.rig, pods
    with listen(good, family, 80), listen(site.remote, family, 80):
        for address in (good.address(family), site.remote.address(family)):
            assert connects(client, address, 80)
            assert _entry(rig, address, 80)["check"] == 0
            assert described(logged(rig)) == [("allow", address, 80, "")]


def test_a_connection_that_no_exit_sees_is_logged_by_its_second_packet(rig: Rig) -> None:
    """A pod whose interface is down: the node asks for its link-layer address, and gets no answer."""
    client, good = both(rig, "a/client", 1), both(rig, "a/good", 2)
    may_reach(rig, "good")
    ip(good, "link set eth0 down")
    with open_socket(client, 4, socket.SOCK_DGRAM) as here:
        for _ in range(3):
            here.sendto(b"?", (good.address(4), 53))
    rows: list[Seen] = []

    def is_logged() -> bool:
        rows.extend(logged(rig))
        return bool(rows)

    until(is_logged)
    assert described(rows) == [("allow", good.address(4), 53, "")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_udp_flow_that_dnat_takes_over_is_noticed_within_a_second(
    site: Site, pods: tuple[Space, Space, Space], family: int
) -> None:
    rig, (client, good, evil) = site.rig, pods
    with (
        open_socket(client, family, socket.SOCK_DGRAM) as here,
        open_socket(good, family, socket.SOCK_DGRAM) as first,
        open_socket(evil, family, socket.SOCK_DGRAM) as second,
    ):
        first.bind((good.address(family), 80))
        second.bind((evil.address(family), 8080))
        second.settimeout(0)
        here.bind((client.address(family), 5353))
        here.sendto(b"?", (good.address(family), 80))
        assert first.recv(10) == b"?"
        site.proxy(dnat(family, good.address(family), evil.address(family), "udp"))
        site.forget_flows()
        began = time.monotonic()

        def is_closed() -> bool:
            here.sendto(struct.pack("!d", time.monotonic() - began), (good.address(family), 80))
            return any(row.verdict == "deny" for row in logged(rig))

        until(is_closed)
        passed_s: list[float] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                passed_s.append(*struct.unpack("!d", second.recv(10)))
        assert max(passed_s, default=0.0) < 3
        for _ in range(50):
            here.sendto(b"!", (good.address(family), 80))

        def is_counted() -> bool:
            rig.windows.rotate()
            return any(row.count >= 50 for row in of(rig.seen(), subject="a/client", verdict="deny"))

        until(is_counted)
        with pytest.raises(BlockingIOError):
            second.recv(10)
