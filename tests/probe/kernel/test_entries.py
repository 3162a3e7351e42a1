"""Packed entries, compared with the numpy dtypes of the kernel's structs."""

from __future__ import annotations

import numpy as np

from enrich.wire.mapped_address import packed_address
from probe.kernel import endpoints, entries
from probe.kernel.endpoints import Bound
from probe.kernel.layout import ADDRESS_KEY, ENDPOINT, PEER, POLICY_ENTRY, POLICY_KEY, PORT_ENTRY, PORT_KEY
from probe.policy.desired import PolicyEntry, PolicySet


def test_packed_entries_have_the_layout_of_the_dtypes() -> None:
    address = bytes(range(16))
    key = np.frombuffer(entries.address_key(address, 97), ADDRESS_KEY)[0]
    assert (key["prefix"], key["address"].tobytes()) == (97, address)
    assert entries.prefix_of(entries.address_key(address, 97)) == (97, int.from_bytes(address, "big"))
    peer = np.frombuffer(entries.peer((7, 1), (8, 2)), PEER)[0]
    assert (peer["identity"].tolist(), peer["kind"].tolist()) == ([7, 8], [1, 2])
    assert [entries.peer_on(peer.tobytes(), side) for side in (0, 1)] == [(7, 1), (8, 2)]
    policy_key = np.frombuffer(entries.policy_key(1, 0, 3), POLICY_KEY)[0]
    assert (policy_key["set"], policy_key["direction"], policy_key["identity"]) == (1, 0, 3)
    assert np.frombuffer(entries.policy_entry(1, 2, 3, 4), POLICY_ENTRY)[0].tolist()[:4] == (1, 2, 3, 4)
    port_key = np.frombuffer(entries.port_key(5, 6, 0x1234, 12), PORT_KEY)[0]
    assert port_key.tolist() == (52, 5, 6, 0x1234, 0)
    port_entry = np.frombuffer(entries.port_entry(1, 2, 3), PORT_ENTRY)[0]
    assert (port_entry["verdict"], port_entry["reason"], port_entry["rule"]) == (1, 2, 3)


def _policy_set(number: int) -> PolicySet:
    egress, ingress = ([PolicyEntry(number, direction, kind, 4) for kind in range(3)] for direction in (1, 2))
    return PolicySet(number, ((egress[0], egress[1], egress[2]), (ingress[0], ingress[1], ingress[2])))


def test_one_side_of_an_endpoint_has_the_layout_of_the_dtype() -> None:
    end = Bound(12, 3, "uid", ("10.0.0.1", "fd00::1"), older=True)
    first = endpoints.pack(end, _policy_set(7), endpoints.ABSENT, 5)
    value = np.frombuffer(first, ENDPOINT)[0]
    assert (value["number"], value["set"], value["attached_ns"]) == (3, 7, 5)
    assert value["address"][0].tobytes() == packed_address("10.0.0.1")
    assert value["address"][1].tobytes() == packed_address("fd00::1")
    assert value["defaults"][1][2].tolist()[:4] == (7, 2, 2, 4)
    assert (endpoints.number_of(first), endpoints.number_of(endpoints.ABSENT)) == (3, 0)


def test_an_endpoint_that_stays_keeps_its_age_and_a_successor_does_not() -> None:
    old = endpoints.pack(Bound(12, 3, "uid", (), older=True), _policy_set(7), endpoints.ABSENT, 5)
    stays = np.frombuffer(endpoints.pack(Bound(12, 3, "uid", ()), _policy_set(8), old, 9), ENDPOINT)[0]
    assert (stays["attached_ns"], stays["set"]) == (5, 8)
    assert (
        np.frombuffer(endpoints.pack(Bound(12, 4, "other", ()), _policy_set(8), old, 9), ENDPOINT)["attached_ns"] == 0
    )
