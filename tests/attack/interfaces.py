"""Attacks on the binding of interfaces, by what becomes of the Pod object, the address or the link."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.attack.ground import Ground
from tests.attack.tally import Tally, attack
from tests.kernel.test_kept_interfaces import (
    ALL,
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
_TRIES = 10
"""A connection that policy allows may take longer than the short time that is waited for it once."""


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
        passing: set[str] = set()
        for _ in range(_TRIES):
            passing |= node.passing()
            if passing == ALL:
                break
        yield Tally(len(ALL), len(through), len(ALL), len(ALL - passing))
        ground.rig.reset()
