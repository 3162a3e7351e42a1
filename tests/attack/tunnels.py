"""Attacks by packets inside packets: the node unwraps them, and forwards what is inside."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.attack.ground import Ground, Shot, datagram, packet
from tests.attack.tally import Tally, attack
from tests.kernel.ear import new_mark
from tests.kernel.rig import FAMILIES, both
from tests.kernel.site import VIP, Site
from tests.kernel.test_encapsulation import FLANNEL, Overlay


@attack("VXLAN to the own node: directly, in fragments, behind a Service or a pod's address, with any inner source")
def vxlan(ground: Ground) -> Iterator[Tally]:
    """From a pod that may send to these addresses only. The inner packet must not reach the world."""
    rig = ground.rig
    rig.services += VIP.values()
    overlay = Overlay(Site(rig, "routed"))
    ground.after(overlay.close)
    server = both(rig, "a/server", 2)
    overlay.site.proxy(f"ip daddr {{ {VIP[4]}, {server.address(4)} }} udp dport 53 dnat ip to 192.0.2.1:{FLANNEL}")
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"],
               egress=[{"ports": [{"port": port, "protocol": "UDP"} for port in (53, FLANNEL)]}])  # fmt: skip
    rig.apply()
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        own = overlay.client.address(family)
        marks = [
            overlay.wrapped(family, *to, protocol=protocol, large=large, source=source)
            for to in (("192.0.2.1", FLANNEL), (VIP[4], 53), (server.address(4), 53))
            for protocol, large, source in itertools.product((17, 6), (False, True), ("", own))
        ]
        through, arrived = ground.arrived(overlay.ear, marks, [ground.from_node(overlay.world, family)])
        yield Tally(len(marks), through, 1, 1 - arrived)


@attack("IPIP, 6in4, GRE, ESP, L2TP, VXLAN and Geneve to another node")
def other_nodes(ground: Ground) -> Iterator[Tally]:
    """From a pod that policy allows everything. Ordinary packets to that node must arrive."""
    rig = ground.rig
    overlay = Overlay(Site(rig, "routed"))
    ground.after(overlay.close)
    rig.policy("a/out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[{}])
    rig.apply()
    wire, ear = ground.wire(overlay.client), ground.ear(overlay.site.other, "up0")
    for _, family in itertools.product(range(ground.rounds), FAMILIES):
        ends = overlay.client.address(family), overlay.site.other.address(family)
        attacks = [datagram(family, *ends, port) for port in (4789, 8472, 6081, 4500)]
        for protocol in (4, 41, 47, 50, 115):
            mark = new_mark()
            attacks.append(Shot([packet(family, *ends, protocol, bytes(40) + mark)], mark))
        yield ground.volley(wire, ear, attacks, [datagram(family, *ends, 53)])
