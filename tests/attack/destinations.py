"""Attacks by addresses: what DNAT makes of an allowed destination, and what a closed interface may reach."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator

from netns import Space, connects, listen

from tests.attack.ground import WORLD, Ground, Shot, datagram, packet
from tests.attack.tally import Tally, attack
from tests.kernel.frames import tcp
from tests.kernel.rig import FAMILIES, both
from tests.kernel.test_final_destination import dnat, may_reach


@attack("an allowed address that DNAT turns into a denied pod: a pod's, the node's, another node's pod's, the world's")
def translated(ground: Ground) -> Iterator[Tally]:
    """As a Service with that external IP does it, and as anybody's rule. DNAT to an allowed pod must work."""
    rig, site = ground.rig, ground.site("routed")
    client, good, evil = both(rig, "a/client", 1), both(rig, "a/good", 2), both(rig, "b/evil", 3)
    rig.elsewhere("a/far", *site.remote.addresses)
    may_reach(rig, "good", "far", blocks=(f"{WORLD[4]}/32", f"{WORLD[6]}/128"))
    for _, family, known in itertools.product(range(ground.rounds), FAMILIES, (False, True)):
        rig.services[:] = good.addresses if known else ()
        rig.apply()
        ends = (good.address(family), rig.node.address(family), site.remote.address(family), WORLD[family])
        with listen(good, family, 8080), listen(evil, family, 8080):
            for dialled in ends:
                site.proxy(dnat(family, dialled, evil.address(family)))
                through = sum(connects(client, dialled, 80, 0.2) for _ in range(2))
                site.proxy(dnat(family, dialled, good.address(family)))
                yield Tally(2, through, 1, not connects(client, dialled, 80))


@attack("an interface of which nothing is known yet, in both directions")
def unknown(ground: Ground) -> Iterator[Tally]:
    """To and from a pod, the world and another pod's address; its own node must be reachable by TCP."""
    rig, world = ground.rig, ground.world()
    server, new = both(rig, "shop/server", 1), both(rig, "shop/new", 2)
    pod = rig.objects.pop("shop/new")
    rig.attachments.attach(new.index)
    rig.apply()
    rig.objects["shop/new"] = pod
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        for source, target in ((new, server), (new, world), (server, new), (world, new)):
            yield _closed(ground, family, source, target)
        with listen(rig.node, family, 8080):
            yield Tally(0, 0, 1, not connects(new, rig.node.address(family), 8080))
        with listen(new, family, 8080):
            yield Tally(0, 0, 1, not connects(rig.node, new.address(family), 8080))


def _closed(ground: Ground, family: int, source: Space, target: Space) -> Tally:
    """Send datagrams and segments; none may arrive. What shows that all have been handled comes from the node."""
    ends = source.address(family), target.address(family)
    shots = [datagram(family, *ends, 53)]
    for flags in (2, 16, 18, 4):
        header = tcp(80, flags, sequence=secrets.randbits(32))
        shots.append(Shot([packet(family, *ends, 6, header)], header[:8]))
    wire, ear = ground.wire(source), ground.ear(target)
    for shot in shots:
        wire.send(shot.packets[0])
    through, _ = ground.arrived(ear, [shot.mark for shot in shots], [ground.from_node(target, family)])
    return Tally(len(shots), through)
