"""Which connections between two pods pass, in both directions and both families."""

from __future__ import annotations

from netns import Space, connects, listen

from tests.kernel.rig import FAMILIES

PORT = 8080
ALL = {"egress 4", "ingress 4", "egress 6", "ingress 6"}


def passing(space: Space, addresses: Space, other: Space) -> set[str]:
    """Return which TCP connections pass from and to a pod; ``other`` is the pod at the other end.

    ``addresses`` has those of the pod, which ``space`` may have lost.
    """
    found = set()
    for family in FAMILIES:
        with listen(other, family, PORT), listen(space, family, PORT):
            if connects(space, other.address(family), PORT, 0.1):
                found.add(f"egress {family}")
            if connects(other, addresses.address(family), PORT, 0.1):
                found.add(f"ingress {family}")
    return found
