"""Nanoseconds a packet, by BPF_PROG_RUN of the loaded program on frames that a pod sends.

Two ways, for they answer two questions. In a row: the kernel runs the program many times on one frame and tells the
mean, caches warm. That suits what may be repeated: an established connection, a denied flow that is in its window. A
new connection is new once, so it is run alone, each time from a port that was not seen before, and the median of many
such runs is taken; each includes two readings of the clock and cold caches. The same frame of an established
connection, and one that passes at once, are run alone as well, so that the two ways can be compared.

An established connection's packets take the short way of bpf/recent.h, but for one in some ticks. Those with options
always take the long way, and are read by the careful parser besides: no established packet costs more.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

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

_IN_A_ROW, _ALONE = "ns, in a row", "ns, alone"
_AIM_NS = 120.0
_FIRST_PORT = 10_000


def measure(scale: Scale, node: Node) -> Part:
    """Both families, some rounds."""
    bench = _Bench(node, scale)
    for number in range(scale.packet_rounds):
        say(f"packets: round {number + 1} of {scale.packet_rounds}")
        node.inside(bench.floor)
        for family in (4, 6):
            node.inside(partial(bench.round, family, number))
    bench.check_windows()
    how = (
        f"BPF_PROG_RUN of pod_egress; maps of the probe's default sizes, {scale.other_pods:,} pods elsewhere, 20 "
        f"policies. In a row: mean of {scale.packets_in_a_row:,} runs on one frame. Alone: median of "
        f"{scale.packets_alone:,} single runs, cold, the clock's two readings included; new and first denied are from "
        "a new port each time."
    )
    return Part("Nanoseconds a packet", how, bench.figures(), bench.counts)


class _Bench:
    """Samples by (case, measure), and the rows that should be and are in the ring."""

    def __init__(self, node: Node, scale: Scale) -> None:
        self._node, self._scale = node, scale
        self._samples: dict[tuple[str, str], list[float]] = {}
        self.counts = dict.fromkeys(("new", "new_rows", "denied", "denied_counted"), 0)

    def figures(self) -> list[Figure]:
        """In the order in which they were first taken."""
        aims = {(f"established, v{family}", _IN_A_ROW): _AIM_NS for family in (4, 6)}
        return [Figure(*name, tuple(samples), aims.get(name)) for name, samples in self._samples.items()]

    def floor(self) -> None:
        """What no packet can be below: a program that does nothing, and ours on what it lets pass at once."""
        with empty_program() as program:
            self._in_a_row("a program that does nothing", arp(), 0, program)
        self._in_a_row("passes at once (ARP)", arp(), PASS)
        self._alone("passes at once (ARP)", [arp()] * self._scale.packets_alone, PASS)

    def round(self, family: int, number: int) -> None:
        """Everything once. Ports are used up: those of a round are no other round's."""
        alone = self._scale.packets_alone
        port = _FIRST_PORT + number * (alone + 2)
        name = f", v{family}"
        self._opened(family, port)
        self._in_a_row(f"established{name}", ack(family, port, OPEN_PORT), PASS)
        self._alone(f"established{name}", [ack(family, port, OPEN_PORT)] * alone, PASS)
        self._in_a_row(f"established, with options{name}", ack_with_options(family, port, OPEN_PORT), PASS)
        self._expect_rows(0, "rows of an established connection")
        self._world(family, port, name)
        self._new(f"new, allowed{name}", family, range(port + 1, port + 1 + alone))
        self._in_a_row(f"denied again{name}", syn(family, port, CLOSED_PORT), DROP)
        self.counts["denied"] += self._scale.packets_in_a_row
        self._denied_first(f"denied first{name}", family, range(port + 1, port + 1 + alone))

    def _world(self, family: int, port: int, name: str) -> None:
        self._opened(family, port, WORLD[family])
        self._in_a_row(f"established, to the world{name}", ack(family, port, OPEN_PORT, WORLD[family]), PASS)
        self._expect_rows(0, "rows of an established connection to the world")

    def _opened(self, family: int, port: int, to: str = "") -> None:
        answer, _ = self._node.run(syn(family, port, OPEN_PORT, to=to))
        expect(answer, PASS, "the answer to a connection that is allowed")
        self._expect_rows(1, "rows of a connection that is opened")

    def _new(self, case: str, family: int, ports: Iterable[int]) -> None:
        frames = [syn(family, port, OPEN_PORT) for port in ports]
        self._alone(case, frames, PASS)
        self.counts["new"] += len(frames)
        self.counts["new_rows"] += self._expect_rows(len(frames), "rows of new connections")

    def _denied_first(self, case: str, family: int, ports: Iterable[int]) -> None:
        frames = [syn(family, port, CLOSED_PORT) for port in ports]
        self._alone(case, frames, DROP)
        self.counts["denied"] += len(frames)
        # One row more: the first of those that were denied in a row.
        self.counts["denied_counted"] += self._expect_rows(len(frames) + 1, "rows of first denies")

    def check_windows(self) -> None:
        """Close the deny windows: what they counted and what was told at once is all that was denied."""
        windows = self._node.rig.windows
        self.counts["denied_counted"] += sum(self._drained(windows.rotate) for _ in range(2))
        expect(self.counts["denied_counted"], self.counts["denied"], "denied packets that were counted")

    def _drained(self, work: Callable[[], int]) -> int:
        work()
        return int(self._node.rig.drain()["count"].astype(np.int64).sum())

    def _in_a_row(self, case: str, frame: bytes, wanted: int, program: int | None = None) -> None:
        answer, mean = self._node.run(frame, self._scale.packets_in_a_row, program)
        expect(answer, wanted, f"the program's answer, {case}")
        self._samples.setdefault((case, _IN_A_ROW), []).append(float(mean))

    def _alone(self, case: str, frames: Iterable[bytes], wanted: int) -> None:
        runs = [self._node.run(frame) for frame in frames]
        for answer in {answer for answer, _ in runs}:
            expect(answer, wanted, f"the program's answer, {case}")
        self._samples.setdefault((case, _ALONE), []).append(float(statistics.median(ns for _, ns in runs)))

    def _expect_rows(self, wanted: int, what: str) -> int:
        found = len(self._node.rig.drain())
        expect(found, wanted, what)
        return found
