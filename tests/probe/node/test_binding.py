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


def test_an_interface_that_loses_its_addresses_is_kept() -> None:
    """Its pod may have moved the address to ``lo``, or set the interface down."""
    lost = bind([WEB], [veth(3)], Binding({3: WEB}), 10.0)
    assert lost.bound == {3: WEB}
    assert lost.kept == {3: "the pod's address is no longer inside the interface"}
    assert not lost.unattached
    assert lost.incomplete, "the pod may get another interface, of which no event says when it has the address"
    assert bind([WEB], [veth(3, "10.0.0.1")], lost, 20.0).kept == {}


def test_a_pod_whose_interface_lost_its_address_does_not_claim_the_next_with_it() -> None:
    lost = bind([WEB], [veth(3)], Binding({3: WEB}), 10.0)
    assert bind([WEB], [veth(3), veth(4, "10.0.0.1")], lost, 10.1).bound == {3: WEB}
    assert bind([WEB], [veth(4, "10.0.0.1")], lost, 10.1).bound == {}
    both = bind([WEB], [veth(3), veth(4, "10.0.0.1")], lost, 20.0)
    assert both.bound == {3: WEB, 4: WEB}, "until the API server had time to say something new: the sandbox was remade"
    assert list(both.bound) == [3, 4], "the interface with the address is the last"


def test_the_interface_of_a_pod_that_the_api_no_longer_has_is_kept_until_it_is_gone() -> None:
    deleted = bind([], [veth(3, "10.0.0.1")], Binding({3: WEB}))
    assert deleted.bound == {3: WEB}
    assert deleted.kept == {3: "the API server no longer has the pod"}
    again = bind([], [veth(3, "10.0.0.1")], deleted, 1000.0)
    assert again.bound == {3: WEB}
    assert not again.incomplete
    assert bind([], [], again).bound == {}


def test_a_terminated_pod_keeps_its_interface_by_its_newest_object_and_claims_none() -> None:
    terminated = Pod("shop", "web", "uid-web", {"job": "done"}, (), "n1", terminated=True)
    kept = bind([terminated], [veth(3, "10.0.0.1")], Binding({3: WEB}))
    assert kept.kept == {3: "the pod has terminated"}
    assert kept.bound[3].labels == {"job": "done"}
    assert kept.bound[3].ips == WEB.ips, "it sends from the addresses that it was bound with"
    with_address = Pod("shop", "web", "uid-web", {}, WEB.ips, "n1", terminated=True)
    assert bind([with_address], [veth(4, "10.0.0.1")], Binding({})) == Binding()


def test_a_mirror_pod_that_is_made_anew_has_the_interface_of_the_last() -> None:
    between = bind([], [veth(3, "10.0.0.1")], Binding({3: WEB}))
    without = Pod("shop", "web", "uid-new", {}, (), "n1")
    starting = bind([without], [veth(3, "10.0.0.1")], between)
    assert starting.bound == {3: WEB}
    remade = Pod("shop", "web", "uid-new", {}, WEB.ips, "n1")
    assert bind([remade], [veth(3, "10.0.0.1")], starting) == Binding({3: remade})


def test_a_running_pods_interface_is_never_anothers() -> None:
    """A pod with NET_ADMIN took the address of the next pod, and gave its own away."""
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.9",), "n1")
    stolen = bind([WEB, follower], [veth(3, "10.0.0.9")], Binding({3: WEB}))
    assert stolen.bound == {3: WEB}
    assert "was bound to pod shop/web" in stolen.unattached[follower.key]
    assert bind([WEB, follower], [veth(3, "10.0.0.9"), veth(4, "10.0.0.9")], stolen).bound == {3: WEB, 4: follower}


def test_a_kept_interface_is_not_anothers_that_has_an_interface() -> None:
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.1",), "n1")
    kept = bind([follower], [veth(3, "10.0.0.1"), veth(4, "10.0.0.1")], Binding({3: WEB}))
    assert kept.bound == {3: WEB, 4: follower}
    assert list(kept.bound) == [3, 4]
    assert not kept.unattached


def test_an_interface_that_got_the_index_of_a_removed_one_is_bound_by_itself() -> None:
    assert bind([], [veth(3)], Binding({3: WEB}), remains=lambda _: False).bound == {}
    follower = Pod("shop", "next", "uid-next", {}, ("10.0.0.9",), "n1")
    new = bind([WEB, follower], [veth(3, "10.0.0.9")], Binding({3: WEB}), remains=lambda _: False)
    assert new.bound == {3: follower}


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
