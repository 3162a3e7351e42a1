"""Two claims to one interface or address: who wins, what is closed, and what another pod's address changes."""

from __future__ import annotations

import pytest

from enrich.model import Pod
from probe.node.binding import Binding, bind
from probe.node.claims import CONFLICT
from probe.node.netlink import Veth

THIEF = Pod("shop", "thief", "uid-thief", {}, ("10.0.0.1", "fd00::1"), "n1")
WEB = Pod("shop", "web", "uid-web", {}, ("10.0.0.2", "fd00::2"), "n1")
WAITING = Pod("shop", "web", "uid-web", {}, (), "n1")
OWN, TAKEN = frozenset(THIEF.ips), frozenset(WEB.ips)


def veth(index: int, addresses: frozenset[str], first: frozenset[str] = frozenset(), namespace: int = 0) -> Veth:
    return Veth(index, f"veth{index}", addresses, namespace or 100 + index, first)


@pytest.mark.parametrize("taken", [{"10.0.0.2"}, {"fd00::2"}, TAKEN], ids=["4", "6", "both"])
@pytest.mark.parametrize("own", [OWN, frozenset[str]()], ids=["beside its own", "instead of its own"])
def test_a_bound_pod_that_takes_anothers_address_changes_nothing(own: frozenset[str], taken: frozenset[str]) -> None:
    stolen = veth(3, own | taken, OWN)
    before = bind([THIEF, WAITING], [stolen], Binding({3: THIEF}))
    assert before.bound == {3: THIEF}
    after = bind([THIEF, WEB], [stolen, veth(4, TAKEN, TAKEN)], before)
    assert after.bound == {3: THIEF, 4: WEB}
    assert not after.unattached
    assert not after.closed


@pytest.mark.parametrize("taken", [{"10.0.0.2"}, {"fd00::2"}, TAKEN], ids=["4", "6", "both"])
def test_an_unbound_interface_with_another_first_address_is_closed(taken: frozenset[str]) -> None:
    """The API server has not published the thief's address yet."""
    thief = Pod("shop", "thief", "uid-thief", {}, (), "n1")
    found = bind([thief, WEB], [veth(3, frozenset(taken), OWN), veth(4, TAKEN, TAKEN)], Binding())
    assert found.bound == {4: WEB}
    assert found.closed.keys() == {3}
    assert found.closed[3].startswith(CONFLICT)
    alone = bind([thief, WEB], [veth(3, frozenset(taken), OWN)], Binding())
    assert alone.bound == {}, "nor is it bound before the pod's own is there"
    assert alone.closed.keys() == {3}


def test_a_pods_only_interface_is_its_own_whatever_else_is_inside() -> None:
    """The probe starts: nothing is known of what was there first."""
    found = bind([THIEF, WEB], [veth(3, OWN | TAKEN), veth(4, TAKEN)], Binding())
    assert found.bound == {3: THIEF, 4: WEB}


def test_two_interfaces_with_one_pods_address_are_both_closed_if_nothing_tells_them_apart() -> None:
    found = bind([THIEF, WEB], [veth(3, TAKEN), veth(4, TAKEN)], Binding())
    assert found.bound == {}
    assert found.closed.keys() == {3, 4}
    assert all(reason.startswith(CONFLICT) for reason in found.closed.values())
    assert found.unattached[WEB.key].startswith(CONFLICT)
    assert found.incomplete, "addresses inside change without an event"
    over = bind([THIEF, WEB], [veth(3, OWN), veth(4, TAKEN)], found)
    assert over.bound == {3: THIEF, 4: WEB}


def test_a_late_thief_gets_nothing_when_the_api_publishes_something_new_of_the_pod() -> None:
    before = bind([WEB], [veth(4, TAKEN, TAKEN)], Binding())
    ready = Pod("shop", "web", "uid-web", {}, WEB.ips, "n1", started_ns=7)
    after = bind([ready], [veth(3, TAKEN), veth(4, TAKEN, TAKEN)], before)
    assert after.bound == {4: ready}
    assert after.closed[3].startswith(CONFLICT)


def test_an_interface_of_a_pod_deleted_by_force_is_not_moved_by_an_address_that_it_takes() -> None:
    kept = bind([], [veth(3, OWN, OWN)], Binding({3: THIEF}))
    for first in (OWN, frozenset[str]()):  # the next probe has not seen the first address
        stolen = bind([WEB], [veth(3, TAKEN, first)], kept)
        assert stolen.bound == {3: THIEF}
        assert stolen.kept
        assert WEB.key in stolen.unattached
        assert bind([WEB], [veth(3, TAKEN, first), veth(4, TAKEN, TAKEN)], stolen).bound == {3: THIEF, 4: WEB}


def test_an_address_that_a_pod_may_have_had_before_closes_the_interface() -> None:
    """A sandbox is remade with its address, or another pod has it already: the API server has to say which."""
    gone = bind([WEB], [], Binding({3: WEB}), 10.0)
    early = bind([WEB], [veth(4, TAKEN, TAKEN)], gone, 10.1)
    assert early.bound == {}
    assert early.closed[4].startswith("not_ready")


def test_what_the_cni_plugin_names_is_certain() -> None:
    named = Pod("shop", "web", "uid-web", {}, WEB.ips, "n1")
    found = bind([THIEF, WAITING], [veth(3, OWN), veth(4, frozenset())], Binding({3: THIEF}), assigned={4: named})
    assert found.bound == {3: THIEF, 4: WEB}
    assert not found.unattached
    assert not found.kept
    changed = Pod("shop", "web", "uid-web", {"app": "web"}, (), "n1")
    newest = bind([changed], [veth(4, frozenset())], found, assigned={4: named}).bound[4]
    assert (newest.labels, newest.ips) == ({"app": "web"}, WEB.ips)


def test_what_the_cni_plugin_names_beats_an_earlier_binding_and_every_claim() -> None:
    wrong = Binding({3: WEB})
    found = bind([THIEF, WEB], [veth(3, TAKEN), veth(4, TAKEN)], wrong, assigned={3: THIEF, 4: WEB})
    assert found.bound == {3: THIEF, 4: WEB}
    moved = bind([WEB], [veth(3, TAKEN), veth(4, TAKEN)], wrong, assigned={4: WEB})
    assert moved.bound == {4: WEB}
    assert moved.closed[3].startswith(CONFLICT)
    gone = bind([WEB], [veth(3, TAKEN)], wrong, assigned={9: WEB})
    assert gone.bound == {3: WEB}, "an interface that is gone is ignored"


def test_an_assigned_pod_that_the_api_no_longer_has_is_kept() -> None:
    found = bind([], [veth(4, TAKEN)], Binding({4: WEB}), assigned={4: WEB})
    assert found.bound == {4: WEB}
    assert found.kept == {4: "the API server no longer has the pod"}


def test_a_second_interface_is_its_pods_with_the_addresses_inside() -> None:
    second = frozenset({"172.16.0.9", "fd99::9"})
    veths = [veth(4, TAKEN, TAKEN, 7), veth(5, second, second, 7), veth(6, frozenset({"172.16.0.8"}), namespace=8)]
    found = bind([WEB], veths, Binding())
    assert found.bound.keys() == {4, 5}
    assert (found.bound[5].uid, found.bound[5].ips) == (WEB.uid, ("172.16.0.9", "fd99::9"))
    assert found.second == {5}
    assert list(found.bound) == [5, 4], "the maps take the last"
    again = bind([WEB], veths, found, 10.0)
    assert again == bind([WEB], veths, again, 10.0)
    assert again.bound == found.bound
    restarted = bind([WEB], veths, Binding({4: WEB, 5: WEB}))
    assert restarted.bound == found.bound
    assert not restarted.kept


def test_a_second_interface_speaks_for_nobody_else() -> None:
    """The pod has put the next pod's address on it."""
    thief = [veth(3, OWN, OWN, 7), veth(5, TAKEN, TAKEN, 7)]
    taken = {*OWN, *TAKEN}.__contains__
    found = bind([THIEF, WEB], thief, Binding({3: THIEF}), is_taken=taken)
    assert found.bound[5].uid == THIEF.uid
    assert found.bound[5].ips == ()
    assert WEB.key in found.unattached
    late = bind([THIEF, WEB], [*thief, veth(4, TAKEN, TAKEN, 8)], found, is_taken=taken)
    assert late.bound[4] == WEB
    assert late.bound[5].ips == ()


def test_a_second_interface_whose_pod_is_deleted_by_force_stays_enforced() -> None:
    second = frozenset({"172.16.0.9"})
    veths = [veth(4, TAKEN, TAKEN, 7), veth(5, second, second, 7)]
    kept = bind([], veths, bind([WEB], veths, Binding()))
    assert kept.bound.keys() == {4, 5}
    assert kept.bound[5].ips == ("172.16.0.9",)
    moved = bind([], [veths[0], veth(5, frozenset(), second, 9)], kept)
    assert moved.bound[5].ips == ("172.16.0.9",), "the pod has moved its end to another namespace"
