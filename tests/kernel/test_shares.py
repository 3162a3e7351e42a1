"""Shares of the table of connections: what one pod floods, no other pod misses. Both families, TCX and clsact."""

from __future__ import annotations

import socket
import threading

import pytest
from netns import PATIENCE_S, Space, open_socket

from probe.kernel.layout import Config, Counter
from probe.kernel.place_expiry import PlaceExpiry
from tests.kernel.places import check_places, slot_of
from tests.kernel.rig import FAMILIES, SMALL, SMALL_LIMIT, Rig, both

pytestmark = pytest.mark.kernel


def ask(pod: Space, family: int, to: str, count: int) -> list[socket.socket]:
    """Send one datagram from each of ``count`` ports of a pod."""
    asking = [open_socket(pod, family, socket.SOCK_DGRAM) for _ in range(count)]
    for here in asking:
        here.sendto(b"?", (to, 53))
    return asking


def scan(pod: Space, family: int, to: str, count: int) -> None:
    with open_socket(pod, family, socket.SOCK_DGRAM) as here:
        for port in range(count):
            here.sendto(b"x", (to, 1000 + port))


def answered(asking: list[socket.socket], there: socket.socket) -> int:
    """Answer each datagram that ``there`` has, and return how many answers arrive."""
    for _ in asking:
        there.sendto(b"!", there.recvfrom(10)[1])
    found = 0
    for here in asking:
        here.settimeout(PATIENCE_S)
        with here:
            try:
                found += here.recv(10) == b"!"
            except TimeoutError:
                continue
    return found


def evicted(rig: Rig) -> dict[str, int]:
    """Return how many connections were evicted, by the pod that paid for them."""
    names = {index: name for name, index in ((name, space.index) for name, space in rig.pods.items())}
    ends = {number: names[index] for index, number in rig.installer.endpoints.items()}
    return {ends[number]: used.evicted for number, used in rig.installer.budgets.used().items() if used.evicted}


@pytest.mark.parametrize("family", FAMILIES)
def test_pods_within_their_limit_that_fill_the_table_take_no_answer_from_another(small: Rig, family: int) -> None:
    client, server = both(small, "a/client", 1), both(small, "a/server", 2)
    noisy = [both(small, f"b/noisy{number}", number) for number in range(10, 30)]
    nowhere = {4: "10.244.9.9", 6: "fd44::999"}[family]
    small.policy("a/closed", podSelector={"matchLabels": {"app": "client"}}, ingress=[])
    small.apply()
    before = small.maps.counters()
    with open_socket(server, family, socket.SOCK_DGRAM) as there:
        there.bind((server.address(family), 53))
        asking = ask(client, family, server.address(family), 40)
        for pod in noisy:
            scan(pod, family, nowhere, SMALL_LIMIT)
        assert answered(asking, there) == 40
    after = small.maps.counters()
    assert after[Counter.CONNECTIONS_FULL] == before[Counter.CONNECTIONS_FULL]
    # Not silently: those who have borrowed most have lost some, and the metric says who.
    lost = evicted(small)
    assert sum(lost.values()) == after[Counter.EVICTIONS] - before[Counter.EVICTIONS] > 0
    assert all(name.startswith("b/") for name in lost)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_within_its_reserve_keeps_every_connection_in_a_full_table(small: Rig, family: int) -> None:
    client, server = both(small, "a/client", 1), both(small, "a/server", 2)
    noisy = [both(small, f"b/noisy{number}", number) for number in range(10, 40)]
    small.policy("a/closed", podSelector={"matchLabels": {"app": "client"}}, ingress=[])
    small.apply()
    nowhere = {4: "10.244.9.9", 6: "fd44::999"}[family]
    for pod in noisy:
        scan(pod, family, nowhere, SMALL_LIMIT)
    with open_socket(server, family, socket.SOCK_DGRAM) as there:
        there.bind((server.address(family), 53))
        # Two places each: one at the client, one at the server.
        asking = ask(client, family, server.address(family), 2)
        for pod in noisy:
            scan(pod, family, nowhere, SMALL_LIMIT)
        assert answered(asking, there) == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("outside", [False, True], ids=["a pod scans", "the node scans"])
def test_who_is_scanned_gets_the_answers_that_it_waits_for(small: Rig, family: int, outside: bool) -> None:
    client, server = both(small, "a/client", 1), both(small, "a/server", 2)
    scanner = small.node if outside else both(small, "b/scanner", 3)
    small.policy(
        "a/port",
        podSelector={"matchLabels": {"app": "client"}},
        ingress=[{"ports": [{"port": 1000, "endPort": 9000, "protocol": "UDP"}]}],
    )
    small.apply()
    with open_socket(server, family, socket.SOCK_DGRAM) as there:
        there.bind((server.address(family), 53))
        asking = ask(client, family, server.address(family), 20)
        scan(scanner, family, client.address(family), 2000)
        assert answered(asking, there) == 20


@pytest.mark.parametrize("family", FAMILIES)
def test_who_answers_a_pod_at_its_limit_does_not_pay_for_it(small: Rig, family: int) -> None:
    server, noisy = both(small, "a/server", 2), both(small, "b/noisy", 3)
    small.policy("a/closed", podSelector={"matchLabels": {"app": "server"}}, policyTypes=["Egress"])
    small.apply()
    nowhere = {4: "10.244.9.9", 6: "fd44::999"}[family]
    with open_socket(server, family, socket.SOCK_DGRAM) as there:
        there.bind((server.address(family), 53))
        scan(noisy, family, nowhere, 3 * SMALL_LIMIT)
        asking = ask(noisy, family, server.address(family), 5)
        scan(noisy, family, nowhere, SMALL_LIMIT // 4)
        # The server may send answers only: its entries are still there.
        assert answered(asking, there) == 5


def test_what_a_pod_takes_back_from_its_reserve_is_counted_for_who_had_borrowed_it(small: Rig) -> None:
    small.maps.configure(Config.POD_CONNECTIONS, SMALL["CONNECTIONS"])
    noisy = both(small, "b/noisy", 3)
    small.apply()
    # It has nearly every place, and so those that the next pod will own.
    scan(noisy, 4, "10.244.9.9", SMALL["CONNECTIONS"] + SMALL_LIMIT)
    pod = both(small, "a/pod", 1)
    small.apply()
    reserve = SMALL["CONNECTIONS"] // 2 // SMALL["ENDPOINTS"] // 2
    first = slot_of(small, small.installer.endpoints[pod.index]) * 2 * reserve
    payer = small.installer.endpoints[noisy.index]

    def of_noisy() -> set[int]:
        numbers, places = small.maps["places"].entries()
        return set(numbers[places["payer"] == payer].tolist())

    before, counted = of_noisy(), evicted(small)["b/noisy"]
    scan(pod, 4, "10.244.9.9", reserve)
    taken = before - of_noisy()
    assert taken & set(range(first, first + reserve))
    assert evicted(small) == {"b/noisy": counted + len(taken)}


def test_a_successor_takes_over_the_share_of_a_pod_that_is_gone(small: Rig) -> None:
    for number in range(1, 4):
        both(small, f"a/pod{number}", number)
    small.apply()
    lent_from = small.maps.config(Config.LENT_FROM)
    slots = {number: slot_of(small, number) for number in small.installer.budgets.used()}
    assert sorted(slots.values()) == [0, 1, 2]
    for name in ("a/pod2", "a/pod3"):
        small.net.remove(small.pods.pop(name))
        del small.objects[name]
    small.apply()
    assert small.maps.config(Config.LENT_FROM) < lent_from
    both(small, "a/pod4", 4)
    small.apply()
    assert sorted(slot_of(small, number) for number in small.installer.budgets.used()) == [0, 1]
    # The next probe reads who has which.
    known = {number: slot_of(small, number) for number in small.installer.budgets.used()}
    small.crash()
    small.open()
    small.maps.configure(Config.POD_CONNECTIONS, SMALL_LIMIT)
    small.apply()
    assert {number: slot_of(small, number) for number in small.installer.budgets.used()} == known


def test_a_pod_that_comes_back_owes_what_it_has_borrowed(small: Rig) -> None:
    pod = both(small, "a/pod", 1)
    small.apply()
    (number,) = small.installer.endpoints.values()
    scan(pod, 4, "10.244.9.9", SMALL_LIMIT)
    borrowed = small.installer.budgets.used()[number].borrowed
    assert borrowed > SMALL_LIMIT // 2
    away = small.objects.pop("a/pod")
    small.apply()
    assert not small.installer.budgets.used()
    small.objects["a/pod"] = away
    small.apply()
    assert small.installer.budgets.used()[number].borrowed == borrowed


def test_two_processors_never_disagree_about_who_has_a_place(small: Rig) -> None:
    server = both(small, "a/server", 2)
    pods = [both(small, f"b/pod{number}", number) for number in range(10, 26)]
    small.apply()

    def work(pod: Space) -> None:
        for _round in range(3):
            scan(pod, 4, server.address(4), 2 * SMALL_LIMIT)

    threads = [threading.Thread(target=work, args=(pod,)) for pod in pods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_places(small, SMALL_LIMIT)
    assert len(small.maps["connections"].entries()[0]) <= SMALL["CONNECTIONS"]


def test_who_has_opened_many_connections_that_are_over_may_open_as_many_again(small: Rig) -> None:
    pod = both(small, "a/pod", 1)
    small.apply()
    scan(pod, 4, "10.244.9.9", 2 * SMALL_LIMIT)
    number = next(iter(small.installer.budgets.used()))
    assert small.installer.budgets.used()[number].borrowed > SMALL_LIMIT // 2
    assert small.installer.usage()["connections"][0] > SMALL_LIMIT // 2
    end_all(small)
    PlaceExpiry(small.maps).look_at(SMALL["CONNECTIONS"])
    assert small.installer.budgets.used()[number].borrowed == 0
    assert small.installer.usage()["connections"][0] == 0
    assert not len(small.maps["places"].entries()[0])
    # Nothing was evicted: they had expired.
    evicted_before = small.installer.budgets.used()[number].evicted
    scan(pod, 4, "10.244.9.9", SMALL_LIMIT)
    assert small.installer.budgets.used()[number].evicted == evicted_before


def test_the_table_is_gone_round_in_a_minute(small: Rig) -> None:
    pod = both(small, "a/pod", 1)
    small.apply()
    scan(pod, 4, "10.244.9.9", SMALL_LIMIT)
    end_all(small)
    now = 0.0
    expiry = PlaceExpiry(small.maps, lambda: now)
    for _ in range(13):
        now += 5.0
        expiry.step()
    assert not len(small.maps["places"].entries()[0])


def end_all(rig: Rig) -> None:
    """Let all connections expire: none has had a packet for an hour."""
    keys, values = rig.maps["connections"].entries()
    for key, value in zip(keys, values.copy(), strict=True):
        value["last_ns"] = max(1, int(value["last_ns"]) - 3600 * 10**9)
        rig.maps["connections"].set(key.tobytes(), value.tobytes())
