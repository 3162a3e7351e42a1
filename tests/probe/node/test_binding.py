"""Which interface is bound to which pod, and when none is."""

from __future__ import annotations

from enrich.model import Name, Pod
from probe.node.binding import Binding, bind
from probe.node.netlink import Veth

WEB = Pod("shop", "web", "uid-web", {}, ("10.0.0.1", "fd00::1"), "n1")
API = Pod("shop", "api", "uid-api", {}, ("10.0.0.2",), "n1")


def veth(index: int, *addresses: str) -> Veth:
    return Veth(index, f"veth{index}", frozenset(addresses))


def test_a_pod_is_bound_to_the_interface_with_its_addresses() -> None:
    found = bind([WEB, API], [veth(3, "10.0.0.2", "fe80::5"), veth(4, "fd00::1"), veth(5, "10.9.9.9")], Binding({}))
    assert found.bound == {3: API, 4: WEB}
    assert found.unattached == {}


def test_a_pod_without_an_interface_is_unattached_for_a_reason() -> None:
    fresh = Pod("shop", "new", "uid-new", {}, (), "n1")
    found = bind([WEB, fresh], [veth(3, "10.9.9.9")], Binding({}))
    assert found.bound == {}
    assert found.unattached == {
        Name("shop", "web"): "no interface has its address yet",
        Name("shop", "new"): "the API server has not published an address of it yet",
    }


def test_an_interface_that_two_pods_claim_is_bound_to_neither() -> None:
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    found = bind([WEB, follower], [veth(3, "10.0.0.1")], Binding({}))
    assert found.bound == {}
    assert set(found.unattached) == {WEB.key, follower.key}
    assert all("2 pods claim its address, on interface veth3" in reason for reason in found.unattached.values())


def test_a_bound_interface_that_another_pod_claims_stays_with_its_pod() -> None:
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    found = bind([WEB, follower], [veth(3, "10.0.0.1")], Binding({3: WEB}))
    assert found.bound == {3: WEB}
    assert follower.key in found.unattached
    both = bind([WEB, follower], [veth(3, "10.0.0.1"), veth(4, "10.0.0.1")], found)
    assert both.bound == {3: WEB, 4: follower}, "a pod that has an interface does not claim another"


def test_an_interface_is_bound_to_the_successor_of_a_deleted_pod() -> None:
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    assert bind([follower], [veth(3, "10.0.0.1")], Binding({3: WEB})).bound == {3: follower}


def test_a_pod_with_a_changed_object_is_the_same_pod() -> None:
    changed = Pod("shop", "web", "uid-web", {"app": "web"}, WEB.ips, "n1")
    assert bind([changed], [veth(3, "10.0.0.1")], Binding({3: WEB})).bound[3].labels == {"app": "web"}


def test_a_pod_whose_interface_disappeared_does_not_claim_the_next_with_its_address() -> None:
    gone = bind([WEB], [], Binding({3: WEB}), 10.0)
    assert gone.bound == {}
    follower = Pod("shop", "next", "uid-next", {}, (), "n1")
    early = bind([WEB, follower], [veth(4, "10.0.0.1")], gone, 10.1)
    assert early.bound == {}, "the API server does not show yet who has the address now"
    assert "its interface disappeared" in early.unattached[WEB.key]
    published = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    assert bind([WEB, published], [veth(4, "10.0.0.1")], early, 10.2).bound == {4: published}


def test_a_pod_claims_another_interface_when_the_api_server_publishes_something_new_of_it() -> None:
    gone = bind([WEB], [], Binding({3: WEB}), 10.0)
    again = Pod("shop", "web", "uid-web", {}, WEB.ips, "n1", started_ns=5)
    assert bind([again], [veth(4, "10.0.0.1")], gone, 10.1).bound == {4: again}
    assert bind([WEB], [veth(4, "10.0.0.1")], gone, 20.0).bound == {4: WEB}, "or after a while"
    assert bind([WEB], [veth(3, "10.0.0.1")], gone, 10.1).bound == {3: WEB}, "or if its own is back"


def test_an_interface_that_loses_its_addresses_counts_as_disappearing() -> None:
    going = bind([WEB], [veth(3)], Binding({3: WEB}), 10.0)
    assert going.bound == {}
    assert bind([WEB], [veth(4, "10.0.0.1")], going, 10.1).bound == {}
    assert bind([WEB], [veth(3), veth(4, "10.0.0.1")], Binding({3: WEB}), 10.0).bound == {}


def test_a_pod_cannot_claim_an_interface_that_appeared_after_its_address_was_published() -> None:
    """The pod's own interface appeared and disappeared before the probe read the links."""

    def appeared_later(index: int, pod: Pod) -> bool:
        return (index, pod.uid) == (4, WEB.uid)

    follower = Pod("shop", "next", "uid-next", {}, (), "n1")
    early = bind([WEB, follower], [veth(4, "10.0.0.1")], Binding({}), 10.0, appeared_later)
    assert early.bound == {}, "the API server does not show yet whose it is"
    assert early.unattached.keys() == {WEB.key, follower.key}
    published = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    assert bind([WEB, published], [veth(4, "10.0.0.1")], early, 10.1, appeared_later).bound == {4: published}
    assert bind([WEB], [veth(4, "10.0.0.1")], Binding({4: WEB}), 10.1, appeared_later).bound == {4: WEB}, (
        "a bound interface stays bound"
    )
