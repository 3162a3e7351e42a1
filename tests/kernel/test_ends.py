"""Reports of connections that end agree with real packets and with the interface's counters, in both families."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from netns import Space, connects, listen, open_socket, ping, run_in

from probe.export.ring_entries import RingEntries
from probe.kernel import bpf
from probe.kernel.ends import references, report_all
from probe.kernel.ends_layout import END, ENDS, ENDS_RING, TRAFFIC_MAP
from probe.kernel.layout import Config, Counter
from tests.kernel.carried import (
    ICMPV6,
    PORT,
    SECOND_NS,
    TCP,
    Others,
    age,
    exchange,
    names,
    of_pod,
    receiving,
    reports,
    sweep,
)
from tests.kernel.rig import FAMILIES, SIZES, SMALL, WITH_ENDS, Rig, both
from tests.kernel.site import VIP, Site, service
from tests.waiting import until

pytestmark = pytest.mark.kernel

QUIET_S = 11
TO_CLIENT = {"podSelector": {"matchLabels": {"app": "client"}}}


@pytest.fixture(scope="module")
def own_sizes() -> Mapping[str, int]:
    return WITH_ENDS


@pytest.fixture
def rig(_of_module: Rig) -> Iterator[Rig]:
    yield _of_module
    _of_module.reset()
    report_all(_of_module.maps)
    reports(_of_module)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reports_of_all_connections_add_up_to_the_interfaces_counters(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    others = {pod.name: Others(rig, pod) for pod in (client, server)}
    for _ in range(3):
        exchange(client, server, family)
    with open_socket(client, family, socket.SOCK_DGRAM) as out, open_socket(server, family, socket.SOCK_DGRAM) as back:
        back.bind((server.address(family), PORT))
        for size in (1, 1000, 4000):  # the last one in fragments
            out.sendto(bytes(size), (server.address(family), PORT))
            answered = back.recvfrom(8000)
            back.sendto(answered[0], answered[1])
            out.recv(8000)
    assert ping(client, server.address(family))
    carried = {pod.name: others[pod.name].carried() for pod in (client, server)}
    assert not report_all(rig.maps)
    found = reports(rig)
    for pod in (client, server):
        mine = found[found["verdict"]["endpoint"] == rig.installer.endpoints[pod.index]]
        mine = mine[~np.isin(mine["verdict"]["protocol"], [ICMPV6]) | (mine["verdict"]["destination_port"] >> 8 == 128)]
        sums = [mine[name][:, way].sum() for way in (0, 1) for name in ("packets", "bytes")]
        assert sums == carried[pod.name]
        assert len(mine) == 5


@pytest.mark.parametrize("family", FAMILIES)
def test_fin_both_ways_closes_and_the_report_has_its_verdict(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    first = rig.ring.next_number
    exchange(client, server, family, 10)
    sweep(rig)
    assert not len(of_pod(rig, reports(rig), client)), "its last packets may still arrive"
    age(rig, QUIET_S)
    sweep(rig)
    found = reports(rig)
    verdicts = rig.drain()
    for pod in (client, server):
        (end,) = of_pod(rig, found, pod)
        assert names(np.array([end])) == ["closed"]
        assert int(end["ring"]) == int(rig.ring.id, 16)
        assert verdicts[int(end["number"]) - first] == end["verdict"]
        assert end["part"] == 0
        assert end["since_ns"] == end["verdict"]["time_ns"]
        assert end["bytes"].min() > 10
        assert end["packets"].min() >= 3
    age(rig, 200)
    sweep(rig)
    assert not len(of_pod(rig, reports(rig), client)), "once"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reset_and_a_timeout(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with pytest.raises(ConnectionRefusedError):
        connects(client, server.address(family), PORT)
    with open_socket(client, family, socket.SOCK_DGRAM) as out:
        out.sendto(b"x", (server.address(family), PORT + 1))
    age(rig, QUIET_S)
    sweep(rig)
    found = reports(rig)
    assert names(of_pod(rig, found, client)) == names(of_pod(rig, found, server)) == ["reset"]
    assert not len(of_pod(rig, found, client, PORT + 1))
    age(rig, 200)
    sweep(rig)
    assert names(of_pod(rig, reports(rig), client, PORT + 1)) == ["timeout"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_revoked_connection_and_what_passes_when_it_is_allowed_again(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with receiving(server, family), open_socket(client, family, socket.SOCK_DGRAM) as out:
        to = server.address(family), PORT
        out.sendto(b"1", to)
        rig.policy("a/out", **TO_CLIENT, policyTypes=["Egress"])
        rig.apply()
        out.sendto(b"2", to)
        out.sendto(b"3", to)
        sweep(rig)
        (end,) = of_pod(rig, reports(rig), client)
        assert names(np.array([end])) == ["revoked"]
        assert end["packets"].tolist() == [1, 0]
        rig.policies.clear()
        rig.apply()
        out.sendto(b"4", to)
    age(rig, 200)
    sweep(rig)
    (end,) = of_pod(rig, reports(rig), client)
    assert (names(np.array([end])), end["part"], end["packets"].tolist()) == (["timeout"], 1, [1, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_that_policy_has_revoked_while_it_was_idle(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with receiving(server, family), open_socket(client, family, socket.SOCK_DGRAM) as out:
        to = server.address(family), PORT
        out.sendto(b"1", to)
        rig.policy("a/other", **TO_CLIENT, policyTypes=["Egress"], egress=[{}])
        rig.apply()
        sweep(rig)
        assert not len(of_pod(rig, reports(rig), client)), "still allowed, by another policy"
        rig.policy("a/other", **TO_CLIENT, policyTypes=["Egress"])
        rig.apply()
        sweep(rig)
        (end,) = of_pod(rig, reports(rig), client)
        assert (names(np.array([end])), end["packets"].tolist()) == (["revoked"], [1, 0])
        sweep(rig)
        assert not len(of_pod(rig, reports(rig), client)), "once"
        rig.policies.clear()
        rig.apply()
        out.sendto(b"2", to)
    # The server's policy has always allowed it.
    age(rig, 200)
    sweep(rig)
    found = reports(rig)
    assert names(of_pod(rig, found, client)) == names(of_pod(rig, found, server)) == ["timeout"]
    assert of_pod(rig, found, client)["part"].tolist() == [1]


def test_an_idle_connection_that_expires_when_policy_has_just_revoked_it(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with receiving(server, 4), open_socket(client, 4, socket.SOCK_DGRAM) as out:
        out.sendto(b"1", (server.address(4), PORT))
    rig.policy("a/in", podSelector={"matchLabels": {"app": "server"}}, policyTypes=["Ingress"])
    rig.apply()
    age(rig, 200)
    sweep(rig)
    found = reports(rig)
    assert (names(of_pod(rig, found, client)), names(of_pod(rig, found, server))) == (["timeout"], ["revoked"])


def forged(client: Space, family: int, source: tuple[str, int], to: tuple[str, int], flags: int, number: int) -> None:
    """Send a TCP packet without data from the client, with any sequence number."""
    header = struct.pack("!HHIIBBHHH", source[1], to[1], number, 0, 5 << 4, flags, 1000, 0, 0)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6

    def send() -> None:
        with socket.socket(kind, socket.SOCK_RAW, TCP) as raw:
            raw.bind((source[0], 0))
            raw.sendto(header, (to[0], 0))

    run_in(client, send)


RST, FIN = 4, 1


def state_of(rig: Rig, pod: Space, port: int) -> Any:
    """Return the entry of the pod's connection to a port."""
    keys, values = rig.maps["connections"].entries()
    number = rig.installer.endpoints[pod.index]
    (found,) = values[(keys["endpoint"] == number) & (keys["remote_port"] == port)]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forged_end_that_is_not_credible_changes_nothing(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    to = server.address(family), PORT
    with listen(server, family, PORT) as listening, open_socket(client, family, socket.SOCK_STREAM) as out:
        out.connect(to)
        accepted, _ = listening.accept()
        with accepted:
            source = out.getsockname()[:2]
            sent = int(state_of(rig, client, PORT)["sent"][0])
            for flags in (RST, FIN):
                # The second one is as far from the first one as that was from what the client has sent.
                for far in (1 << 30, 2 << 30):
                    forged(client, family, source, to, flags, (sent + far) % (1 << 32))
            until(lambda: of_pod_packets(rig, client) >= 2 + 4)
            entry = state_of(rig, client, PORT)
            assert not entry["state"] & 0x02, "CONNECTION_CLOSING"
            assert int(entry["sent"][0]) == sent
            age(rig, QUIET_S)
            sweep(rig)
            assert not len(reports(rig)), "it lives on"
            # In the window of FIN and RST, but further than the client can have sent.
            forged(client, family, source, to, RST, (sent + (1 << 22)) % (1 << 32))
            until(lambda: of_pod_packets(rig, client) >= 2 + 5)
            assert state_of(rig, client, PORT)["state"] & 0x02, "the next one is not known to be forged"
            age(rig, QUIET_S)
            sweep(rig)
            assert not len(reports(rig))
            age(rig, 121)
            sweep(rig)
            assert names(of_pod(rig, reports(rig), client)) == ["timeout"]


def of_pod_packets(rig: Rig, pod: Space) -> int:
    """Return how many packets of the pod's connections were counted and not reported."""
    _, values = rig.maps[TRAFFIC_MAP].entries()
    mine = values[(values["verdict"]["endpoint"] == rig.installer.endpoints[pod.index]) & (values["state"] != 0)]
    lately = mine["lately"] >> np.uint64(34) & np.uint64((1 << 22) - 1)
    return int((mine["packets"] + lately)[:, 0].sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_rst_after_which_the_connection_goes_on_was_ignored(rig: Rig, family: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    to = server.address(family), PORT
    with listen(server, family, PORT) as listening, open_socket(client, family, socket.SOCK_STREAM) as out:
        out.connect(to)
        accepted, _ = listening.accept()
        with accepted:
            # A challenge ACK answers one that is in the window, and not the next number (RFC 5961).
            sent = int(state_of(rig, client, PORT)["sent"][0])
            forged(client, family, out.getsockname()[:2], to, RST, (sent + 1000) % (1 << 32))
            until(lambda: state_of(rig, client, PORT)["state"] & 0x02)
            earlier_resets(rig, QUIET_S + 9)
            out.sendall(b"I live on")
            assert accepted.recv(100) == b"I live on"
            age(rig, QUIET_S)
            sweep(rig)
            assert not len(of_pod(rig, reports(rig), client))
    age(rig, QUIET_S)
    sweep(rig)
    assert names(of_pod(rig, reports(rig), client)) == ["closed"]


def earlier_resets(rig: Rig, seconds: int) -> None:
    """Have every RST so far be so much earlier."""
    keys, values = rig.maps[TRAFFIC_MAP].entries()
    for key, value in zip(keys, values.copy(), strict=True):
        if value["reset_at"]:
            value["reset_at"] -= seconds
            rig.maps[TRAFFIC_MAP].set(key.tobytes(), value.tobytes())


def test_a_pod_that_is_gone(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with receiving(server, 4), open_socket(client, 4, socket.SOCK_DGRAM) as out:
        out.sendto(b"1", (server.address(4), PORT))
    number = rig.installer.endpoints[server.index]
    rig.net.remove(rig.pods.pop("a/server"))
    del rig.objects["a/server"]
    rig.apply()
    rig.apply()
    sweep(rig)
    found = reports(rig)
    (end,) = found[found["verdict"]["endpoint"] == number]
    assert names(np.array([end])) == ["pod_gone"]
    assert end["packets"].tolist() == [0, 1]


def test_an_evicted_connection_and_a_port_that_is_used_again(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    rig.maps.configure(Config.POD_CONNECTIONS, 8)
    with open_socket(client, 4, socket.SOCK_DGRAM) as out:
        for port in range(9000, 9040):
            out.sendto(b"x", (server.address(4), port))
    rig.maps.configure(Config.POD_CONNECTIONS, 4096)
    found = reports(rig)
    mine = found[found["verdict"]["endpoint"] == rig.installer.endpoints[client.index]]
    assert len(mine) == 40 - rig.flows_of("a/client").size
    assert set(names(mine)) == {"evicted"}
    assert set(mine["packets"][:, 0].tolist()) == {1}
    report_all(rig.maps)
    reports(rig)
    with open_socket(client, 4, socket.SOCK_DGRAM) as out:
        out.bind(("0.0.0.0", 4444))  # noqa: S104 - a namespace of the test's own
        out.sendto(b"first", (server.address(4), PORT))
        age(rig, 200)
        out.sendto(b"second", (server.address(4), PORT))
    (end,) = of_pod(rig, reports(rig), client)
    assert names(np.array([end])) == ["timeout"]
    assert int(end["bytes"][0]) == 14 + 20 + 8 + len(b"first")


def change_traffic(rig: Rig, change: Callable[[Any], None]) -> None:
    """Change the traffic of each connection that is to be reported."""
    keys, values = rig.maps[TRAFFIC_MAP].entries()
    for key, value in zip(keys, values.copy(), strict=True):
        if value["state"]:
            change(value)
            rig.maps[TRAFFIC_MAP].set(key.tobytes(), value.tobytes())


def let_an_hour_pass(rig: Rig) -> None:
    """Have the next sweep find that all connections were reported an hour ago."""

    def change(value: Any) -> None:
        # The node may have booted less than an hour ago.
        value["since_ns"] = (int(value["since_ns"]) - 3601 * SECOND_NS) % (1 << 64)

    change_traffic(rig, change)


def test_a_connection_that_lives_on_is_reported_each_hour(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with receiving(server, 4), open_socket(client, 4, socket.SOCK_DGRAM) as out:
        for part in range(2):
            out.sendto(b"x", (server.address(4), PORT))
            let_an_hour_pass(rig)
            sweep(rig)
            (end,) = of_pod(rig, reports(rig), client)
            assert (names(np.array([end])), end["part"], end["packets"].tolist()) == (["open"], part, [1, 0])
        sweep(rig)
        assert not len(of_pod(rig, reports(rig), client))
        assert rig.installer.endpoints[client.index] in references(rig.maps)["endpoint"]


def test_a_part_after_an_hourly_one_does_not_end_before_it_began(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with receiving(server, 4), open_socket(client, 4, socket.SOCK_DGRAM) as out:
        out.sendto(b"x", (server.address(4), PORT))
    let_an_hour_pass(rig)
    sweep(rig)
    (hourly,) = of_pod(rig, reports(rig), client)
    age(rig, 200)
    sweep(rig)
    (end,) = of_pod(rig, reports(rig), client)
    assert names(np.array([hourly, end])) == ["open", "timeout"]
    assert end["packets"].tolist() == [0, 0]
    assert end["since_ns"] == end["until_ns"] == hourly["until_ns"]


@pytest.mark.parametrize(("field", "counted"), [("lately", 1 << 34 | 100), ("marks", 1)], ids=["a packet", "a FIN"])
def test_what_another_connections_packet_has_changed_is_not_reported(rig: Rig, field: str, counted: int) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    shift = 56 if field == "lately" else 36

    def change(value: Any) -> None:
        tagged = ((int(value["serial"]) + 1) & 0xFF) << shift | counted
        words = value[field].reshape(-1)
        words[0] = (int(words[0]) + tagged) % (1 << 64)
        value[field] = words.reshape(value[field].shape)

    with receiving(server, 4), open_socket(client, 4, socket.SOCK_DGRAM) as out:
        out.sendto(b"1", (server.address(4), PORT))
        change_traffic(rig, change)
        let_an_hour_pass(rig)
        before = rig.maps.counters()[Counter.ENDS_UNCERTAIN]
        sweep(rig)
        assert not len(reports(rig))
        assert rig.maps.counters()[Counter.ENDS_UNCERTAIN] - before == 2, "each connection has two ends"
        out.sendto(b"2", (server.address(4), PORT))
    age(rig, 200)
    sweep(rig)
    (end,) = of_pod(rig, reports(rig), client)
    assert (names(np.array([end])), end["part"], end["packets"].tolist()) == (["timeout"], 1, [1, 0])


def test_what_passes_after_a_verdict_that_could_not_be_kept_is_not_reported_with_the_one_before(rig: Rig) -> None:
    """A UDP socket's datagrams to a Service go to another backend, and another CPU has the place at that moment."""
    site = Site(rig, "routed")
    rig.services += VIP.values()
    client, one, two = both(rig, "a/client", 1), both(rig, "a/one", 2), both(rig, "a/two", 3)
    rig.apply()
    before = rig.maps.counters()[Counter.ENDS_UNCERTAIN]
    with receiving(one, 4), receiving(two, 4), open_socket(client, 4, socket.SOCK_DGRAM) as out:
        site.proxy(service(4, one, 53, PORT, "udp"))
        out.sendto(b"1", (VIP[4], 53))
        place = int(state_of(rig, client, 53)["place"]) - 1
        site.proxy(service(4, two, 53, PORT, "udp"))
        site.forget_flows()
        claim = place.to_bytes(4, "little")
        rig.maps["emptying"].set(claim, time.monotonic_ns().to_bytes(8, "little"))
        out.sendto(b"2", (VIP[4], 53))
        out.sendto(b"3", (VIP[4], 53))
        assert bpf.delete(rig.maps["emptying"].fd, claim)
    site.close()
    assert rig.maps.counters()[Counter.ENDS_UNCERTAIN] - before == 1
    age(rig, 200)
    sweep(rig)
    assert not len(of_pod(rig, reports(rig), client))
    assert rig.maps.counters()[Counter.ENDS_UNCERTAIN] - before == 2


def test_every_report_has_the_number_of_its_verdict_while_cpus_race(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    third = both(rig, "a/third", 3)
    rig.apply()
    first = rig.ring.next_number

    def send(source: Space) -> None:
        with open_socket(source, 4, socket.SOCK_DGRAM) as out:
            for port in range(10_000, 11_000):
                out.sendto(b"x", (server.address(4), port))

    threads = [threading.Thread(target=send, args=(pod,)) for pod in (client, third)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [reports(rig)]
    while report_all(rig.maps):
        taken.append(reports(rig))
    found, verdicts = np.concatenate([*taken, reports(rig)]), rig.drain()
    assert len(found) >= 4000
    assert (verdicts[found["number"].astype(np.int64) - first] == found["verdict"]).all()


def test_what_the_ring_has_no_room_for_is_counted_or_reported_later(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    assert rig.ring.ends is not None
    room = rig.ring.ends.capacity
    with open_socket(client, 4, socket.SOCK_DGRAM) as out:
        for port in range(20_000, 20_000 + room):
            out.sendto(b"x", (server.address(4), port))
    unreported = report_all(rig.maps)
    assert unreported >= room - 1, "each connection has two ends"
    taken = len(reports(rig))
    while report_all(rig.maps):
        taken += len(reports(rig))
    taken += len(reports(rig))
    assert taken + rig.maps.counters()[Counter.ENDS_LOST] >= 2 * room - 64


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_without_the_switch_there_is_nothing_of_it(own: Rig) -> None:
    assert own.maps.ends_ring is None
    assert own.ring.ends is None
    assert TRAFFIC_MAP not in own.maps
    assert not (own.maps.folder / ENDS_RING).exists()
    assert not (own.maps.folder / TRAFFIC_MAP).exists()
    assert report_all(own.maps) == 0
    assert references(own.maps) == {}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [({**WITH_ENDS, "RING_BYTES": 1 << 21}, ("timeout", [2, 0])), ({**SMALL, ENDS: 1}, ("moved", [1, 0])),
     (SIZES, ("moved", [1, 0]))],
    ids=["another ring", "other places", "switched off"],
)  # fmt: skip
def test_another_generation_counts_on_or_the_report_says_that_it_does_not(
    tmp_path: Path, sizes: dict[str, int], expected: tuple[str, list[int]]
) -> None:
    rig = Rig(tmp_path, "tcx", sizes=WITH_ENDS)
    try:
        client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
        rig.apply()
        with receiving(server, 4), open_socket(client, 4, socket.SOCK_DGRAM) as out:
            out.sendto(b"x", (server.address(4), PORT))
            # To load the other programs may take longer than the entry lives.
            age(rig, -3600)
            ring, used = rig.ring.id, references(rig.maps)
            rig.crash()
            rig.sizes = sizes
            rig.open()
            (earlier,) = rig.generation.predecessors
            assert used["endpoint"]
            for kind, numbers in used.items():
                assert numbers <= earlier.references()[kind] | rig.generation.references()[kind]
            rig.apply()
            until(earlier.retired.is_set)
            out.sendto(b"x", (server.address(4), PORT))
        age(rig, 3800)
        sweep(rig)
        old = RingEntries(earlier.maps.ends_ring or 0, END)
        found = [old.read_entries(1 << 16)[1]] + ([reports(rig)] if rig.ring.ends is not None else [])
        old.close()
        (end,) = of_pod(rig, np.concatenate(found), client)
        assert (names(np.array([end]))[0], end["packets"].tolist()) == expected
        assert f"{int(end['ring']):016x}" == ring
    finally:
        rig.close()
