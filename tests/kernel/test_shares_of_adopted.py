"""Who pays for the entries that the probe writes for older connections: who opened them. Both families and modes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from netns import Space, listen, open_socket

from probe.kernel.layout import Config
from tests.kernel.places import check_places
from tests.kernel.rig import FAMILIES, SMALL, Rig, both
from tests.kernel.site import Site
from tests.kernel.test_shares import answered, ask, scan
from tests.kernel.tracking import tracking

pytestmark = pytest.mark.kernel

_OWN, _OUTSIDE = 0, 1
_LIMIT = 1024
_FILLING = 20
"""Pods that fill the table, and together with the others have more entries than the LRU hash has room for."""
_OLDER = 5


@pytest.mark.parametrize("family", FAMILIES)
def test_older_connections_of_many_pods_take_no_answer_from_another(small: Rig, family: int) -> None:
    client, server = both(small, "a/client", 1), both(small, "a/server", 2)
    filling = [both(small, f"b/filling{number}", number) for number in range(10, 10 + _FILLING)]
    small.policy("a/closed", podSelector={"matchLabels": {"app": "client"}}, ingress=[])
    small.apply()
    with tracking(small.node), open_socket(server, family, socket.SOCK_DGRAM) as there:
        there.bind((server.address(family), 53))
        asking = ask(client, family, server.address(family), 40)
        for pod in filling:
            scan(pod, family, {4: "10.244.9.9", 6: "fd44::999"}[family], SMALL["CONNECTIONS"] // _FILLING)
        small.maps.configure(Config.POD_CONNECTIONS, _LIMIT)
        for number in range(50, 50 + _OLDER):
            # It is not under policy yet, but nf_conntrack knows what it asks.
            scan(both(small, f"c/older{number}", number), family, server.address(family), _LIMIT)
            small.apply(older=True)
            assert len(small.flows_of(f"c/older{number}")) > 0
        check_places(small, _LIMIT)
        assert answered(asking, there) == 40


def payers(rig: Rig, subject: Space) -> set[tuple[int, int]]:
    """Return the accounts that pay for the entries of a pod's TCP connections."""
    _, places = rig.maps["places"].entries()
    keys, number = places["key"], rig.installer.endpoints[subject.index]
    mine = places[(keys["endpoint"] == number) & (keys["protocol"] == socket.IPPROTO_TCP)]
    return {(int(place["payer"]), int(place["account"])) for place in mine}


@pytest.fixture
def site(rig: Rig) -> Iterator[Site]:
    made = Site(rig, "routed")
    with tracking(rig.node):
        yield made
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_who_opened_an_older_connection_pays_for_both_of_its_entries(site: Site, family: int) -> None:
    rig = site.rig
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    with listen(server, family, 8080), open_socket(client, family, socket.SOCK_STREAM) as here:
        here.connect((server.address(family), 8080))
        rig.apply(older=True)
        assert payers(rig, client) == payers(rig, server) == {(rig.installer.endpoints[client.index], _OWN)}
        check_places(rig, 4096)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_pays_from_its_second_account_for_older_connections_from_outside(site: Site, family: int) -> None:
    rig = site.rig
    server = both(rig, "a/server", 2)
    with listen(server, family, 8080), open_socket(site.remote, family, socket.SOCK_STREAM) as outside:
        outside.connect((server.address(family), 8080))
        rig.apply(older=True)
        assert payers(rig, server) == {(rig.installer.endpoints[server.index], _OUTSIDE)}
        check_places(rig, 4096)
