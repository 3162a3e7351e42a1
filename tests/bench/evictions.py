"""Measure what a new connection costs a pod at its limit, where each one evicts another, beside one below it.

The pod first opens as many connections to an outside address as a pod may have. Then samples of both cases take turns:
for those below the limit, the limit is raised; for those at it, it is set back. The kernel's count of evictions says
that each connection was what its case says.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Final

from probe.kernel.layout import Config, Counter
from tests.bench.node import PASS, WORLD, Node, syn
from tests.bench.result import Figure, Part, expect, say
from tests.bench.scale import Scale

_MEASURE: Final = "ns, single"
_FIRST_PORT: Final = 1024
_FIRST_TO: Final = 20_000
_BY_CHANCE: Final = 0.05
_CASES: Final = ("below its limit", "at its limit")


def measure(scale: Scale, node: Node) -> Part:
    """Measure both families in several rounds."""
    bench = _Bench(node, scale.single_packets)
    say(f"evictions: the pod opens {bench.limit:,} connections")
    node.inside(bench.fill)
    for number in range(scale.packet_rounds):
        say(f"evictions: round {number + 1} of {scale.packet_rounds}")
        for family in (4, 6):
            node.inside(partial(bench.round, family, number))
    how = (
        f"As the single runs above, on first packets to an outside address. The pod has {bench.limit:,} connections, "
        "which were not answered: as many as it may have. Below its limit, the limit is raised meanwhile."
    )
    figures = [Figure(case, _MEASURE, tuple(samples)) for case, samples in bench.samples.items()]
    return Part("Nanoseconds per new connection, below and at a pod's limit", how, figures, bench.counts)


class _Bench:
    """Samples by case, and how many connections there were and how many were evicted."""

    def __init__(self, node: Node, count: int) -> None:
        self._node, self._count = node, count
        self.limit = node.rig.maps.config(Config.POD_CONNECTIONS)
        self.samples: dict[str, list[float]] = {}
        self.counts = {"opened": 0, "at_limit": 0, "evicted": 0}

    def fill(self) -> None:
        """Open as many connections as the pod may have."""
        for number in range(self.limit):
            self._open(4, _FIRST_PORT + number, _FIRST_TO - 1)
        self._node.rig.drain()

    def round(self, family: int, number: int) -> None:
        """Measure each case once, with a destination port of its own."""
        for place, case in enumerate(_CASES):
            is_at = place == 1
            maps = self._node.rig.maps
            maps.configure(Config.POD_CONNECTIONS, self.limit if is_at else 1 << 30)
            before = maps.counters()[Counter.EVICTIONS]
            to = _FIRST_TO + 2 * number + place
            median = statistics.median(self._open(family, _FIRST_PORT + port, to) for port in range(self._count))
            maps.configure(Config.POD_CONNECTIONS, self.limit)
            evicted = maps.counters()[Counter.EVICTIONS] - before
            # Which places a connection tries is left to chance: the table may show it no vacant one, or an expired one.
            share = evicted / self._count
            is_right = share > 1 - _BY_CHANCE if is_at else share < _BY_CHANCE
            expect(is_right, expected=True, what=f"{evicted} of {self._count} connections evicted another ({case})")
            self.samples.setdefault(f"new, {case}, v{family}", []).append(float(median))
            self.counts["at_limit"] += self._count * is_at
            self.counts["evicted"] += evicted * is_at
            self._node.rig.drain()

    def _open(self, family: int, port: int, to: int) -> int:
        result, spent = self._node.run(syn(family, port, to, to=WORLD[family]))
        expect(result, PASS, "the program's result for a connection to the outside")
        self.counts["opened"] += 1
        return spent
