"""Which connections between two pods pass, in both directions and both families."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from netns import PATIENCE_S, Space, connects, listen

from tests.kernel.rig import FAMILIES

PORT = 8080
ALL = {"egress 4", "ingress 4", "egress 6", "ingress 6"}
_MOMENT_S: Final = 0.1
"""Tests ask this often."""


def passing(space: Space, addresses: Space, other: Space, expected: Set[str]) -> set[str]:
    """Return which TCP connections pass from and to a pod; ``other`` is the pod at the other end.

    Those that are expected get time, the others a moment. ``addresses`` has those of the pod, which ``space`` may have
    lost.
    """
    found = set()
    for family in FAMILIES:
        attempts = {f"egress {family}": (space, other), f"ingress {family}": (other, addresses)}
        with listen(other, family, PORT), listen(space, family, PORT):
            for name, (source, target) in attempts.items():
                patience_s = PATIENCE_S if name in expected else _MOMENT_S
                if connects(source, target.address(family), PORT, patience_s):
                    found.add(name)
    return found
