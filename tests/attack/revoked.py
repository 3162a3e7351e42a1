"""Attacks by what follows a connection without being judged itself: ICMP errors and later fragments."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

from netns import Space

from tests.attack.ground import WORLD, Ground, Shot, any_number, datagram, fragment, packet
from tests.attack.tally import Tally, attack
from tests.kernel.ear import new_mark
from tests.kernel.frames import icmp, tcp, udp
from tests.kernel.rig import FAMILIES, Rig, both

_OUT = {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Ingress", "Egress"]}


def _allow(rig: Rig, *ports: int) -> None:
    """Let the client call these ports of the world, and let others call the client on UDP 9 only."""
    to = [{"ipBlock": {"cidr": f"{WORLD[4]}/32"}}, {"ipBlock": {"cidr": f"{WORLD[6]}/128"}}]
    rules = [{"to": to, "ports": [{"port": port, "protocol": "UDP"} for port in ports]}]
    rig.policy("a/client", **_OUT, egress=rules, ingress=[{"ports": [{"port": 9, "protocol": "UDP"}]}])
    rig.apply()


def _change(rig: Rig) -> None:
    """Change the policy of another pod, which makes every stored verdict stale."""
    name = f"a/other-{len(rig.policies)}"
    rig.policy(name, podSelector={"matchLabels": {"app": "other"}}, ingress=[{"ports": [{"port": 1}]}])
    rig.apply()


def _about(family: int, client: Space, quoted: bytes, kind: tuple[int, int] | None = None) -> Shot:
    """Return an error of a router's."""
    mark, kind = new_mark(), kind or ((3, 4) if family == 4 else (2, 0))
    body = icmp(*kind, struct.pack("!HH", 0, 1400), quoted + mark)
    source = "203.0.113.1" if family == 4 else "2001:db8:9::1"
    return Shot([packet(family, source, client.address(family), 1 if family == 4 else 58, body)], mark)


@attack("ICMP errors about revoked, foreign and invented connections, and other ICMP that quotes one")
def errors(ground: Ground) -> Iterator[Tally]:
    """To a closed pod from a router that policy does not know. Errors about what policy allows now must arrive."""
    rig = ground.rig
    client, router = both(rig, "a/client", 1), ground.host("203.0.113.1", "2001:db8:9::1")
    both(rig, "a/other", 2)
    world, wire, ear = ground.world(), ground.wire(router), ground.ear(client)
    for number, family in itertools.product(range(ground.rounds), FAMILIES):
        own = 4000 + number
        ends = client.address(family), WORLD[family]

        quoted = {port: packet(family, *ends, 17, udp(port, own)) for port in (53, 54, 55)}
        _allow(rig, 53, 54)
        yield ground.volley(
            ground.wire(client), ground.ear(world), [], [datagram(family, *ends, port, own) for port in (53, 54)]
        )
        invented = [
            quoted[55], packet(family, *ends, 17, udp(53, own - 1000)), packet(family, *ends, 6, tcp(53, 16, own)),
            packet(family, ends[1], ends[0], 17, udp(own, 53)), quoted[53][:20],
        ]  # fmt: skip
        others = [(5, 1), (4, 0), (13, 0)] if family == 4 else [(100, 0), (139, 0), (130, 0)]
        bad = [_about(family, client, one) for one in invented]
        bad += [_about(family, client, quoted[53], kind) for kind in others]
        yield ground.volley(wire, ear, bad, [_about(family, client, quoted[port]) for port in (53, 54)])
        _change(rig)
        yield ground.volley(wire, ear, [], [_about(family, client, quoted[port]) for port in (53, 54)])
        _allow(rig, 54)
        yield ground.volley(wire, ear, [_about(family, client, quoted[53])], [_about(family, client, quoted[54])])


@attack("later fragments of a datagram whose first one passed before a revocation")
def fragments(ground: Ground) -> Iterator[Tally]:
    """At the pod's hooks in both directions, and at the exit to the world."""
    rig = ground.rig
    client, friend, world = both(rig, "a/client", 1), both(rig, "a/other", 2), ground.world()
    paths = ((client, world), (friend, client))
    for _, family, (sender, receiver) in itertools.product(range(ground.rounds), FAMILIES, paths):
        ends, number = (sender.address(family), receiver.address(family)), any_number()
        incoming = receiver is client
        wire, ear = ground.wire(sender), ground.ear(receiver)
        port, kept = (9, 10) if incoming else (53, 54)

        allow = _let_in if incoming else _allow
        allow(rig, port, kept)
        wire.send(fragment(family, ends, 17, udp(port, 4000, bytes(8)), 0, number, more=True))
        yield ground.volley(wire, ear, [], [_later(family, ends, number)])
        _change(rig)
        # The other one has no first fragment.
        yield ground.volley(wire, ear, [_later(family, ends, number ^ 1)], [_later(family, ends, number)])
        allow(rig, kept)
        late = [_later(family, ends, number), _later(family, ends, number)]
        yield ground.volley(wire, ear, late, [datagram(family, *ends, kept)])


def _let_in(rig: Rig, *ports: int) -> None:
    rules = [{"ports": [{"port": port, "protocol": "UDP"} for port in ports]}]
    rig.policy("a/client", **_OUT, ingress=rules)
    rig.apply()


def _later(family: int, ends: tuple[str, str], number: int) -> Shot:
    """Return a fragment that continues the first 16 bytes."""
    mark = new_mark()
    return Shot([fragment(family, ends, 17, mark, 16, number, more=False)], mark)
