"""Which of the node's own addresses get room beside those of its pods."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from enrich.wire.mapped_address import packed_address
from probe.kernel.plan import own_addresses
from probe.policy.desired import NODE, Identity, host_key

NODES = ["192.0.2.1", "10.99.0.1", "2001:db8:1::1"]
SERVICES = [f"10.96.0.{number}" for number in range(1, 101)]
PODS = [packed_address(f"10.244.0.{number}") for number in range(1, 11)]


def chosen(held: Iterable[str], limit: int, known: Iterable[str] = ()) -> frozenset[str]:
    identities = {host_key(address): Identity(number, NODE) for number, address in enumerate(NODES, 1)}
    return own_addresses([*held], PODS, [packed_address(address) for address in known], limit, identities)


def test_what_fits_is_kept_whole() -> None:
    held = [*NODES, *SERVICES]
    assert chosen(held, len(held) + len(PODS)) == set(held)


def test_services_come_last_and_pods_have_a_part_of_their_own() -> None:
    kept = chosen([*SERVICES, *NODES], 40)
    assert kept > set(NODES)
    assert len(kept) == 30


def test_those_in_the_map_stay() -> None:
    """What is left out does not change from one pass to the next."""
    first = chosen([*SERVICES, *NODES], 40)
    assert chosen([*reversed(SERVICES), *NODES], 40, first) == first
    # A new address of a Service pushes none of them out.
    assert chosen([*SERVICES, *NODES, "10.96.0.0"], 40, first) == first


def test_what_takes_room_until_the_switch_is_waited_for() -> None:
    old = SERVICES[:40]
    assert chosen([*SERVICES, *NODES], 40, old).isdisjoint(NODES)
    assert chosen([*SERVICES, *NODES], 40, old[:30]) >= set(NODES)


def test_more_of_the_nodes_own_than_fit_leave_room_for_pods() -> None:
    held = [f"198.18.0.{number}" for number in range(1, 101)]
    assert len(chosen(held, 40)) == 30


def test_addresses_are_parsed_only_if_not_all_surely_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """kube-proxy in IPVS mode gives a node tens of thousands, and each pass asks."""
    limit = len(SERVICES) + len(PODS)
    monkeypatch.setattr("probe.kernel.plan.packed_address", None)
    assert own_addresses(SERVICES, PODS, [], limit, {}) == set(SERVICES)
    with pytest.raises(TypeError):
        own_addresses(SERVICES, PODS, [], limit - 1, {})
