"""Another size or layout takes over while packets flow: nothing breaks, nothing denied passes, no verdict is lost."""

from __future__ import annotations

import gc
import socket

import numpy as np
import pytest
from netns import Space, connects, gets_no_answer, listen, open_socket

from probe.kernel.carrying import Carrier
from probe.kernel.generations import generation_name
from tests.kernel.rig import Rig, of
from tests.kernel.takeover import Traffic, holders, make_pods, restart
from tests.waiting import until

pytestmark = pytest.mark.kernel


@pytest.fixture
def pods(own: Rig) -> tuple[Space, Space]:
    """Make a client and a server."""
    return make_pods(own)


_OTHER_RING = {"RING_BYTES": 1 << 21, "DENIED_FLOWS": 8192, "ENDPOINTS": 512}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("own", "family", "sizes"),
    [
        ("tcx", 4, {"POLICY_ENTRIES": 512}),
        ("tcx", 6, {"CONNECTIONS": 1 << 17}),
        ("clsact", 4, {"CONNECTIONS": 1 << 15}),
        ("clsact", 6, _OTHER_RING),
    ],
    indirect=["own"],
)
def test_another_size_takes_over_under_traffic(
    own: Rig, pods: tuple[Space, Space], family: int, sizes: dict[str, int]
) -> None:
    client, server = pods
    traffic = Traffic(client, server, family)
    listening = listen(server, family, 80)
    connection = open_socket(client, family, socket.SOCK_STREAM)
    connection.connect((server.address(family), 80))
    accepted, _ = listening.accept()
    try:
        verdicts = [own.drain()]
        before = own.maps.ring_id
        restart(own, **sizes)
        own.apply()
        assert own.maps.ring_id != before
        connection.sendall(b"x")
        assert accepted.recv(1) == b"x"
        asked = traffic.answered
        until(lambda: traffic.answered > asked + 50)
    finally:
        traffic.stop()
        for one in (listening, connection, accepted):
            one.close()
    own.windows.rotate()
    own.windows.rotate()
    verdicts.append(own.drain())
    traffic.check(np.concatenate(verdicts))
    # One generation is left, with the new sizes.
    assert {path.name for path in own.pins.iterdir()} == {"links", generation_name(own.sizes)}
    assert not any(isinstance(one, Carrier) for one in gc.get_objects()), "what it remembers is of no use any more"
    # Places are numbered anew. Each connection has one, and it is its own, also if no packet has come since.
    found = holders(own)
    assert len(found) >= 4
    assert all(place == key for key, place in found.items())


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_the_sizes_are_those_of_the_settings(own: Rig, pods: tuple[Space, Space]) -> None:
    restart(own, POLICY_ENTRIES=512, CONNECTIONS=1024)
    own.apply()
    assert own.maps["policy_entries"].max_entries == 512
    assert own.maps["places"].max_entries == 1024
    client, server = pods
    own.drain()
    with listen(server, 4, 80), listen(server, 4, 81):
        assert connects(client, server.address(4), 80)
        assert gets_no_answer(client, server.address(4), 81)
    assert {(row.verdict, row.port) for row in of(own.seen(), subject="a/server")} == {("allow", 80), ("deny", 81)}
