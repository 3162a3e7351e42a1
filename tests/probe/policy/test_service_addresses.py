"""Which entries of the table of addresses are a Service's, from one change to the next."""

from __future__ import annotations

from probe.policy.desired import NODE, POD, SERVICE, WORLD, AddressKey, Desired, Identity, host_key
from probe.policy.service_addresses import ServiceAddresses

VIP, POD_IP, NODE_IP = "10.96.0.10", "10.244.0.1", "192.0.2.1"
BLOCK: AddressKey = (host_key("10.96.0.0")[0], 96 + 16)


def _desired() -> Desired:
    made = Desired()
    made.ipcache[BLOCK] = Identity(7, WORLD)
    made.ipcache[host_key(POD_IP)] = Identity(8, POD)
    made.ipcache[host_key(NODE_IP)] = Identity(9, NODE)
    return made


def test_a_services_address_is_the_world_around_it_and_a_pods_and_a_nodes_stay() -> None:
    found = ServiceAddresses().changed_entries(_desired(), [VIP, POD_IP, NODE_IP, "203.0.113.1"], whole=True)
    assert found == {
        host_key(VIP): Identity(7, SERVICE),
        host_key(POD_IP): Identity(8, POD),
        host_key(NODE_IP): Identity(9, NODE),
        host_key("203.0.113.1"): Identity(0, SERVICE),
    }


def test_a_block_that_changes_is_looked_at_again_and_a_pod_that_comes_is_not() -> None:
    desired, services = _desired(), ServiceAddresses()
    services.changed_entries(desired, [VIP], whole=True)
    desired.changed_keys.addresses.add(host_key(POD_IP))
    assert services.changed_entries(desired, [VIP], whole=False) == {}
    desired.ipcache[BLOCK] = Identity(17, WORLD)
    desired.changed_keys.addresses.add(BLOCK)
    assert services.changed_entries(desired, [VIP], whole=False) == {host_key(VIP): Identity(17, SERVICE)}


def test_a_block_of_one_address_that_is_a_services_is_its_identity() -> None:
    desired = _desired()
    desired.ipcache[host_key(VIP)] = Identity(21, WORLD)
    assert ServiceAddresses().changed_entries(desired, [VIP], whole=True) == {host_key(VIP): Identity(21, SERVICE)}


def test_a_service_that_goes_leaves_what_the_compiler_says() -> None:
    desired, services = _desired(), ServiceAddresses()
    desired.ipcache[host_key("10.96.0.11")] = Identity(5, WORLD)
    services.changed_entries(desired, [VIP, "10.96.0.11"], whole=True)
    assert services.changed_entries(desired, [], whole=False) == {
        host_key(VIP): None,
        host_key("10.96.0.11"): Identity(5, WORLD),
    }
