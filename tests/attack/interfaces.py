"""Attacks on the binding of interfaces, by what becomes of the Pod object, the address or the link."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from tests.attack.ground import Ground
from tests.attack.tally import Tally, attack
from tests.kernel.passing import ALL
from tests.kernel.rig import FAMILIES
from tests.kernel.test_address_conflicts import TAKEN, VICTIM, beside, instead
from tests.kernel.test_address_conflicts import Node as TwoClaims
from tests.kernel.test_kept_interfaces import (
    EVERYBODY,
    Node,
    deleted,
    moved_to_lo,
    set_down,
    succeeded,
    without_address,
)


def _deleted_and_restarted(node: Node) -> None:
    node.delete()
    node.restart()


_EVENTS: tuple[Callable[[Node], None], ...] = (
    deleted, succeeded, without_address, moved_to_lo, set_down, _deleted_and_restarted,
)  # fmt: skip


@attack(
    "an isolated pod, deleted by force, ended, its address on lo, its link down and up, after a restart of the probe"
)
def kept(ground: Ground) -> Iterator[Tally]:
    """Connections in both directions. When its policy is opened afterwards, they must pass."""
    for event in _EVENTS:
        node = Node(ground.rig, ground.folder())
        event(node)
        through = node.passing()
        node.policy(**EVERYBODY)
        yield Tally(len(ALL), len(through), len(ALL), len(ALL - node.passing(ALL)))
        ground.rig.reset()


@attack("a pod that takes the next pod's address before that one starts")
def thief(ground: Ground) -> Iterator[Tally]:
    """It may reach no other pod, by either address; the pod whose address it takes may reach all.

    Once it is bound its binding protects the other pod, before that the address which was first seen inside."""
    for take, taken, is_bound in itertools.product((beside, instead), TAKEN.values(), (True, False)):
        node = TwoClaims(ground.rig, ground.folder())
        if is_bound:
            node.publish("shop/thief")
        else:
            node.read()
        take(node.thief, taken)
        node.read()
        victim = node.victim()
        node.publish(VICTIM, ips=())
        node.publish(VICTIM)
        for family in FAMILIES:
            if any((":" in address) == (family == 6) for address in node.thief.addresses):
                yield Tally(1, not node.is_cut_off(node.thief, node.other, family))
            for ends in ((node.other, victim), (victim, node.other)):
                yield Tally(0, 0, 1, not node.reaches(*ends, family))
        ground.rig.reset()
