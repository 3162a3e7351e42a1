"""Measure nanoseconds per packet, by BPF_PROG_RUN of the loaded program on frames that a pod sends.

There are two methods, because they answer two questions:

1. Repeated: the kernel runs the program many times on one frame and reports the mean, with warm caches. This suits
   packets that can be repeated: those of an established connection, or of a denied flow in its deny window.
2. Single: a connection is new only once, so the program is run once for each frame, from a port that was not used
   before, and the median of many such runs is taken. Each run includes two readings of the clock and cold caches. The
   frame of an established connection and one that passes at once are measured this way too, for comparison. A new
   connection to a pod is checked and logged by the exit's program, which is measured on its own.

Most packets of an established connection take the fast path of bpf/recent.h; at most one in each tick takes the full
one. Packets with options always take the full path and the slower parser: no established packet costs more.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from probe.kernel.layout import LIMIT, Config
from probe.policy.logging import LoggingDefaults, make_word
from tests.bench.node import (
    CLOSED_PORT,
    DROP,
    OPEN_PORT,
    PASS,
    WORLD,
    Node,
    ack,
    ack_with_options,
    arp,
    empty_program,
    syn,
)
from tests.bench.result import Figure, Part, expect, say
from tests.bench.scale import Scale

_REPEATED, _SINGLE = "ns, repeated", "ns, single"
_AIM_NS = 120.0
_FIRST_PORT = 1024
_NEVER_REACHED = 1 << 40
"""A limit of verdicts in a second."""
_MORE_THAN_FIT = 1 << 30
_LATER_THAN_NOW = 1 << 40
"""A second that gives no limit any new room."""


def measure(scale: Scale, node: Node, with_ends: Node) -> Part:
    """Measure both families in several rounds. ``with_ends``: a node that reports connections (WEIR_ENDS=1)."""
    bench = _Bench(node, scale)
    reporting = _Bench(with_ends, scale, bench)
    # All rounds together open more connections than a pod may have; what one costs at its limit is another part.
    for one in (node, with_ends):
        one.rig.maps.configure(Config.POD_CONNECTIONS, _MORE_THAN_FIT)
    for number in range(scale.packet_rounds):
        say(f"packets: round {number + 1} of {scale.packet_rounds}")
        node.inside(bench.floor)
        for family in (4, 6):
            node.inside(partial(bench.round, family, number))
            # In turns, because other work on the machine changes the figures.
            with_ends.inside(partial(reporting.round_of_ends, family, number))
    bench.check_windows()
    how = (
        f"BPF_PROG_RUN of pod_egress, with maps of the probe's default sizes, {scale.other_pods:,} pods on other nodes "
        f"and 20 policies. Repeated: mean of {scale.repeated_packets:,} runs on one frame, warm caches. Single: median "
        f"of {scale.single_packets:,} single runs, cold caches, two readings of the clock included; each new or first "
        "denied packet has a new port."
    )
    return Part("Nanoseconds per packet", how, bench.figures(), bench.counts)


class _Bench:
    """Samples by (case, measure), and the numbers of expected and found verdicts in the ring."""

    def __init__(self, node: Node, scale: Scale, with_figures: _Bench | None = None) -> None:
        """``with_figures``: whose figures these are to be among."""
        self._node, self._scale = node, scale
        self._samples: dict[tuple[str, str], list[float]] = with_figures._samples if with_figures else {}
        names = "new", "new_verdicts", "denied", "denied_counted", "not_logged", "cut_allowed", "cut_denied"
        self.counts = dict.fromkeys(names, 0)

    def figures(self) -> list[Figure]:
        """Return the figures in the order in which they were first measured."""
        aims = {(f"established, v{family}", _REPEATED): _AIM_NS for family in (4, 6)}
        return [Figure(*name, tuple(samples), aims.get(name)) for name, samples in self._samples.items()]

    def floor(self) -> None:
        """Measure a program that does nothing, and ours on a packet that passes at once: the lower bounds."""
        with empty_program() as program:
            self._repeated("a program that does nothing", arp(), 0, program)
        self._repeated("passes at once (ARP)", arp(), PASS)
        self._single("passes at once (ARP)", [arp()] * self._scale.single_packets, PASS)

    def round(self, family: int, number: int) -> None:
        """Measure each case once. A port can be new only once, so each round has its own ports."""
        count = self._scale.single_packets
        port = _FIRST_PORT + number * (4 * count + 2)
        name = f", v{family}"
        self._open(family, port)
        self._repeated(f"established{name}", ack(family, port, OPEN_PORT), PASS)
        self._single(f"established{name}", [ack(family, port, OPEN_PORT)] * count, PASS)
        self._repeated(f"established, with options{name}", ack_with_options(family, port, OPEN_PORT), PASS)
        self._expect_verdicts(0, "verdicts of an established connection")
        self._world(family, port, name)
        self._new(f"new, allowed{name}", family, range(port + 1, port + 1 + count))
        self._repeated(f"denied again{name}", syn(family, port, CLOSED_PORT), DROP)
        self.counts["denied"] += self._scale.repeated_packets
        self._denied_first(f"denied first{name}", family, range(port + 1, port + 1 + count))
        self._within_limits(family, name, range(port + 1 + 3 * count, port + 1 + 4 * count))
        word = make_word(None, LoggingDefaults("none")).encode()
        self._cut(family, f"not logged{name}", range(port + 1 + count, port + 1 + 2 * count), {Config.LOGGING: word})
        limits, full = {Config.LIMIT_ALLOWED: 1, Config.LIMIT_DENIED: 1}, np.array((_LATER_THAN_NOW, 1), LIMIT)
        for limit in range(2):
            self._node.rig.maps["limits"].set(limit.to_bytes(4, "little"), full.tobytes())
        self._cut(family, f"over the limit{name}", range(port + 1 + 2 * count, port + 1 + 3 * count), limits)

    def round_of_ends(self, family: int, number: int) -> None:
        """Measure what reports of connections make dearer: an established packet, and a new connection."""
        count = self._scale.single_packets
        port = _FIRST_PORT + number * (3 * count + 2)
        name = f", v{family}, WEIR_ENDS=1"
        self._open(family, port)
        self._repeated(f"established{name}", ack(family, port, OPEN_PORT), PASS)
        self._repeated(f"established, with options{name}", ack_with_options(family, port, OPEN_PORT), PASS)
        self._expect_verdicts(0, "verdicts of an established connection")
        self._new(f"new, allowed{name}", family, range(port + 1, port + 1 + count))

    def _within_limits(self, family: int, name: str, ports: Iterable[int]) -> None:
        """Measure the same packets while there are limits, which are not reached."""
        maps = self._node.rig.maps
        for word in (Config.LIMIT_ALLOWED, Config.LIMIT_DENIED):
            maps.configure(word, _NEVER_REACHED)
        try:
            self._new(f"new, allowed, within a limit{name}", family, ports)
            self._denied_first(f"denied first, within a limit{name}", family, ports, others=0)
        finally:
            for word in (Config.LIMIT_ALLOWED, Config.LIMIT_DENIED):
                maps.configure(word, 0)

    def _cut(self, family: int, name: str, ports: Iterable[int], words: Mapping[Config, int]) -> None:
        """Measure the same packets while all verdicts are cut: neither a verdict nor a deny window is made."""
        maps = self._node.rig.maps
        before = maps.cut()
        for word, value in words.items():
            maps.configure(word, value)
        try:
            frames = [syn(family, port, OPEN_PORT) for port in ports]
            self._single(f"new, allowed, {name}", frames, PASS)
            self._single(f"new, allowed, {name}, at the exit", frames, PASS, self._node.run_exit)
            denied = [syn(family, port, CLOSED_PORT) for port in ports]
            self._single(f"denied first, {name}", denied, DROP)
            self._repeated(f"denied again, {name}", denied[0], DROP)
        finally:
            for word in words:
                maps.configure(word, 0)
        self._expect_verdicts(0, "verdicts while all are cut")
        for (_, decided), total in maps.cut().items():
            self.counts[f"cut_{decided}"] += total
        for (_, decided), total in before.items():
            self.counts[f"cut_{decided}"] -= total
        self.counts["not_logged"] += len(frames) + len(denied) + self._scale.repeated_packets

    def _world(self, family: int, port: int, name: str) -> None:
        self._open(family, port, WORLD[family])
        self._repeated(f"established, to the outside{name}", ack(family, port, OPEN_PORT, WORLD[family]), PASS)
        self._expect_verdicts(0, "verdicts of an established connection to the outside")

    def _open(self, family: int, port: int, to: str = "") -> None:
        frame = syn(family, port, OPEN_PORT, to=to)
        for result, _ in (self._node.run(frame), self._node.run_exit(frame)):
            expect(result, PASS, "the program's result for a connection that is allowed")
        self._expect_verdicts(1, "verdicts of a connection that is opened")

    def _new(self, case: str, family: int, ports: Iterable[int]) -> None:
        frames = [syn(family, port, OPEN_PORT) for port in ports]
        self._single(case, frames, PASS)
        self._single(f"{case}, at the exit", frames, PASS, self._node.run_exit)
        self.counts["new"] += len(frames)
        self.counts["new_verdicts"] += self._expect_verdicts(len(frames), "verdicts of new connections")

    def _denied_first(self, case: str, family: int, ports: Iterable[int], others: int = 1) -> None:
        """Measure first denials. The ring has one verdict more: that of the first of the packets that were denied
        repeatedly, unless it was read already."""
        frames = [syn(family, port, CLOSED_PORT) for port in ports]
        self._single(case, frames, DROP)
        self.counts["denied"] += len(frames)
        self.counts["denied_counted"] += self._expect_verdicts(len(frames) + others, "verdicts of first denies")

    def check_windows(self) -> None:
        """Close the deny windows. Their counts and the verdicts of first denies must add up to the denied packets."""
        windows = self._node.rig.windows
        self.counts["denied_counted"] += sum(self._count_after(windows.rotate) for _ in range(2))
        expect(self.counts["denied_counted"], self.counts["denied"], "denied packets that were counted")
        cut = self.counts["cut_allowed"] + self.counts["cut_denied"]
        expect(cut, self.counts["not_logged"], "packets whose verdict was cut and counted")

    def _count_after(self, work: Callable[[], int]) -> int:
        work()
        return int(self._node.rig.drain()["count"].astype(np.int64).sum())

    def _repeated(self, case: str, frame: bytes, expected: int, program: int | None = None) -> None:
        result, mean = self._node.run(frame, self._scale.repeated_packets, program)
        expect(result, expected, f"the program's result ({case})")
        self._samples.setdefault((case, _REPEATED), []).append(float(mean))

    def _single(
        self, case: str, frames: Iterable[bytes], expected: int, run: Callable[[bytes], tuple[int, int]] | None = None
    ) -> None:
        runs = [(run or self._node.run)(frame) for frame in frames]
        for result in {result for result, _ in runs}:
            expect(result, expected, f"the program's result ({case})")
        self._samples.setdefault((case, _SINGLE), []).append(float(statistics.median(ns for _, ns in runs)))

    def _expect_verdicts(self, expected: int, what: str) -> int:
        found = len(self._node.rig.drain())
        expect(found, expected, what)
        return found
