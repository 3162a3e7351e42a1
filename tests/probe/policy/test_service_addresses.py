"""Tests of the Services' entries in the table of addresses, also after changes."""

from __future__ import annotations

from probe.policy.desired import NODE, POD, POD_SERVICE, SERVICE, WORLD, AddressKey, Desired, Identity, host_key
from probe.policy.service_addresses import ServiceAddresses

VIP, POD_IP, NODE_IP = "10.96.0.10", "10.244.0.1", "192.0.2.1"
BLOCK: AddressKey = (host_key("10.96.0.0")[0], 96 + 16)


def _desired() -> Desired:
    desired = Desired()
    desired.addresses[BLOCK] = Identity(7, WORLD)
    desired.addresses[host_key(POD_IP)] = Identity(8, POD)
    desired.addresses[host_key(NODE_IP)] = Identity(9, NODE)
    return desired


def test_a_service_address_gets_its_blocks_identity_unless_it_is_a_pods_or_nodes() -> None:
    found = ServiceAddresses().changed_entries(_desired(), [VIP, POD_IP, NODE_IP, "203.0.113.1"], whole=True)
    assert found == {
        host_key(VIP): Identity(7, SERVICE),
        host_key(POD_IP): Identity(8, POD_SERVICE),
        host_key(NODE_IP): Identity(9, NODE),
        host_key("203.0.113.1"): Identity(0, SERVICE),
    }


def test_a_changed_block_updates_service_addresses_and_a_new_pod_does_not() -> None:
    desired, services = _desired(), ServiceAddresses()
    services.changed_entries(desired, [VIP], whole=True)
    desired.changed_keys.addresses.add(host_key(POD_IP))
    assert services.changed_entries(desired, [VIP], whole=False) == {}
    desired.addresses[BLOCK] = Identity(17, WORLD)
    desired.changed_keys.addresses.add(BLOCK)
    assert services.changed_entries(desired, [VIP], whole=False) == {host_key(VIP): Identity(17, SERVICE)}


def test_a_service_address_that_is_a_block_of_its_own_keeps_that_identity() -> None:
    desired = _desired()
    desired.addresses[host_key(VIP)] = Identity(21, WORLD)
    assert ServiceAddresses().changed_entries(desired, [VIP], whole=True) == {host_key(VIP): Identity(21, SERVICE)}


def test_the_entries_of_a_deleted_service_become_those_of_the_compiler() -> None:
    desired, services = _desired(), ServiceAddresses()
    desired.addresses[host_key("10.96.0.11")] = Identity(5, WORLD)
    services.changed_entries(desired, [VIP, "10.96.0.11"], whole=True)
    assert services.changed_entries(desired, [], whole=False) == {
        host_key(VIP): None,
        host_key("10.96.0.11"): Identity(5, WORLD),
    }
