"""Which interface is whose, and what is not decided."""

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
    assert found.waiting == {}


def test_a_pod_without_an_interface_waits_and_says_why() -> None:
    fresh = Pod("shop", "new", "uid-new", {}, (), "n1")
    found = bind([WEB, fresh], [veth(3, "10.9.9.9")], Binding({}))
    assert found.bound == {}
    assert found.waiting == {
        Name("shop", "web"): "no interface with its address yet",
        Name("shop", "new"): "no address yet",
    }


def test_an_address_that_two_pods_claim_binds_nobody_anew() -> None:
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    found = bind([WEB, follower], [veth(3, "10.0.0.1")], Binding({}))
    assert found.bound == {}
    assert set(found.waiting) == {WEB.key, follower.key}
    assert all("claimed by 2 pods (veth3)" in reason for reason in found.waiting.values())


def test_an_address_that_two_pods_claim_stays_with_who_has_it() -> None:
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    found = bind([WEB, follower], [veth(3, "10.0.0.1")], Binding({3: WEB}))
    assert found.bound == {3: WEB}
    assert follower.key in found.waiting
    both = bind([WEB, follower], [veth(3, "10.0.0.1"), veth(4, "10.0.0.1")], found)
    assert both.bound == {3: WEB, 4: follower}, "who has one does not claim the other"


def test_an_interface_whose_pod_is_gone_is_bound_to_its_successor() -> None:
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    assert bind([follower], [veth(3, "10.0.0.1")], Binding({3: WEB})).bound == {3: follower}


def test_a_pod_with_a_changed_object_is_the_same_pod() -> None:
    changed = Pod("shop", "web", "uid-web", {"app": "web"}, WEB.ips, "n1")
    assert bind([changed], [veth(3, "10.0.0.1")], Binding({3: WEB})).bound[3].labels == {"app": "web"}


def test_an_interface_that_comes_after_a_pods_own_went_is_not_that_pods() -> None:
    gone = bind([WEB], [], Binding({3: WEB}), 10.0)
    assert gone.bound == {}
    follower = Pod("shop", "next", "uid-next", {}, (), "n1")
    early = bind([WEB, follower], [veth(4, "10.0.0.1")], gone, 10.1)
    assert early.bound == {}, "the API does not know yet who has the address now"
    assert "its interface went" in early.waiting[WEB.key]
    told = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    assert bind([WEB, told], [veth(4, "10.0.0.1")], early, 10.2).bound == {4: told}


def test_a_pod_whose_interface_went_has_another_when_the_api_says_more_of_it() -> None:
    gone = bind([WEB], [], Binding({3: WEB}), 10.0)
    again = Pod("shop", "web", "uid-web", {}, WEB.ips, "n1", started_ns=5)
    assert bind([again], [veth(4, "10.0.0.1")], gone, 10.1).bound == {4: again}
    assert bind([WEB], [veth(4, "10.0.0.1")], gone, 20.0).bound == {4: WEB}, "or when it has had its time"
    assert bind([WEB], [veth(3, "10.0.0.1")], gone, 10.1).bound == {3: WEB}, "or its own is back"


def test_an_interface_that_goes_loses_its_addresses_first() -> None:
    going = bind([WEB], [veth(3)], Binding({3: WEB}), 10.0)
    assert going.bound == {}
    assert bind([WEB], [veth(4, "10.0.0.1")], going, 10.1).bound == {}
    assert bind([WEB], [veth(3), veth(4, "10.0.0.1")], Binding({3: WEB}), 10.0).bound == {}


def test_an_interface_that_came_after_a_pods_address_was_told_is_not_that_pods() -> None:
    """The pod's own came and went before anybody looked, so nothing of it is known."""

    def is_later(index: int, pod: Pod) -> bool:
        return (index, pod.uid) == (4, WEB.uid)

    follower = Pod("shop", "next", "uid-next", {}, (), "n1")
    early = bind([WEB, follower], [veth(4, "10.0.0.1")], Binding({}), 10.0, is_later)
    assert early.bound == {}, "the API does not know yet whose it is"
    assert early.waiting.keys() == {WEB.key, follower.key}
    told = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    assert bind([WEB, told], [veth(4, "10.0.0.1")], early, 10.1, is_later).bound == {4: told}
    assert bind([WEB], [veth(4, "10.0.0.1")], Binding({4: WEB}), 10.1, is_later).bound == {4: WEB}, (
        "what is bound stays"
    )
