"""Attacks on the time before a pod's policy is in force: pods that start by way of the CNI plugin."""

from __future__ import annotations

from collections.abc import Iterator

from tests.attack.ground import Ground
from tests.attack.tally import Tally, attack
from tests.kernel.passing import ALL
from tests.kernel.test_cni import Node


@attack("a pod's first packets, the moment after its sandbox was made by CNI")
def starting(ground: Ground) -> Iterator[Tally]:
    """Connections in both directions, of an isolated pod and of one without policy."""
    for _ in range(ground.rounds):
        node = Node(ground.rig, ground.folder())
        node.start()
        try:
            for name in ("new", "free"):
                node.publish(name)
            closed, free = node.sandbox(), node.sandbox("10.244.0.10", "fd44::a")
            waiting = node.call(closed).start("ADD"), node.call(free, "free").start("ADD")
            failed = [process for process in waiting if process.communicate()[0] and process.returncode]
            through, lost = node.passing(closed), ALL - node.passing(free, ALL)
            yield Tally(len(ALL), len(through), len(ALL), len(lost) + len(failed))
        finally:
            node.stop()
            ground.rig.reset()
