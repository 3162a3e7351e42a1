"""Attacks by numbers on the look-ups of connections that the programs do not know."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from netns import Space

from probe.kernel.layout import Counter
from tests.attack.ground import Ground
from tests.attack.mid_flow import Pair
from tests.attack.tally import Tally, attack
from tests.kernel.frames import Wire, segment
from tests.kernel.rig import FAMILIES, Rig, both
from tests.kernel.test_adoption import forget_entries
from tests.kernel.tracking import tracking
from tests.waiting import until

_ACK = 16
_MARKER = [{"ports": [{"port": 9, "protocol": "UDP"}]}]
_CONNECTIONS = 5
_FLOWS = 2000
_BURST, _PAUSE_S = 200, 0.02
"""Of a flood: a second's look-ups are used up in a moment, and the next second's as well."""
_HEARD_S = 3.0
"""TCP sends again after 0.2, 0.6 and 1.4 seconds."""


@attack("a flood of stray ACKs at a pod whose connections were idle for longer than the table keeps them")
def lookups(ground: Ground) -> Iterator[Tally]:
    """By another pod, and by a host outside. What policy allows goes on when the server speaks.

    A flood from outside may delay the connections that the pod has outside, so these are not counted then.
    """
    rig = ground.rig
    client, server, evil = both(rig, "a/client", 1), both(rig, "a/server", 2), both(rig, "b/evil", 3)
    world, outside = ground.world(), ground.host("198.51.100.8", "2001:db8:7::8")
    rig.policy("a/in", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Ingress"], ingress=_MARKER)
    with tracking(rig.node):
        rig.apply()
        ports = itertools.count(80)
        for _, family, attacker in itertools.product(range(ground.rounds), FAMILIES, (evil, outside)):
            peers = (server, world) if attacker is evil else (server,)
            with ExitStack() as stack:
                pairs = [
                    stack.enter_context(Pair(client, peer, family, next(ports)))
                    for peer in peers
                    for _ in range(_CONNECTIONS)
                ]
                stack.enter_context(_flood(rig, ground.wire(attacker), attacker, client, family))
                forget_entries(rig)
                lost = _unheard(pairs, ground.stretched(_HEARD_S))
            yield Tally(1, min(lost, 1), len(pairs), lost)


def _unheard(pairs: Sequence[Pair], seconds: float) -> int:
    """Have the servers of all pairs speak; return how many are not heard within ``seconds``."""
    for pair in pairs:
        pair.speak(answerer_speaks=True)
    end = time.monotonic() + seconds
    return sum(not pair.is_heard(answerer_speaks=True, seconds=max(0.01, end - time.monotonic())) for pair in pairs)


@contextmanager
def _flood(rig: Rig, wire: Wire, sender: Space, to: Space, family: int) -> Iterator[None]:
    """Have a thread send stray ACKs. Look-ups are used up when this begins."""
    ends = sender.address(family), to.address(family)
    packets = itertools.cycle([segment(*ends, _ACK, (1024 + flow, 443), b"") for flow in range(_FLOWS)])
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(_PAUSE_S):
            for packet in itertools.islice(packets, _BURST):
                wire.send(packet)

    thread = threading.Thread(target=send)
    before = rig.maps.counters()[Counter.LOOKUPS_SPARED]
    thread.start()
    try:
        until(lambda: rig.maps.counters()[Counter.LOOKUPS_SPARED] >= before + _FLOWS)
        yield
    finally:
        stop.set()
        thread.join()
