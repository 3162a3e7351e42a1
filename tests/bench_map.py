"""``python -m tests.bench_map [--frames N]``: how soon the map of 1,000 workloads and 5,000 connections stands, and how
many frames a second it has while it is dragged, in Chromium.

The page is the real one, on loopback. Its answer for the map is made beforehand, because Kafka is not what is measured.
Within each frame (``requestAnimationFrame``) the pointer moves once, so that every frame has something to do. CPU time
is that of all processes of the browser: other work on the machine makes frames rarer, and each hardly dearer.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, cast

from playwright.sync_api import Page as Tab

from enrich.wire.pair import HOUR_NS, Pair, PairEnd, PairKey
from streams.web.feed import FlowFeed
from streams.web.map_question import MapQuestion, TrafficMap
from streams.web.traffic import Steps, Traffic
from tests.served_page import chromium, served

PLACES: Final = 1_000
CONNECTIONS: Final = 5_000
NAMESPACES: Final = 40
VERDICTS: Final[Sequence[Literal["allow", "deny", "audit"]]] = ("allow", "allow", "allow", "deny", "audit")
_HOUR: Final = 490_000
_DRAG: Final = """([frames, x, y]) => new Promise((done) => {
  const canvas = document.getElementById("map");
  const times = [];
  const step = (now) => {
    times.push(now);
    if (times.length > frames) return done(times);
    const [dx, dy] = [80 * Math.sin(times.length / 9), 60 * Math.cos(times.length / 7)];
    const at = { clientX: x + dx, clientY: y + dy };
    canvas.dispatchEvent(new PointerEvent("pointermove", { pointerId: 1, bubbles: true, ...at }));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
_STANDS: Final = """() => new Promise((done) => {
  const look = () => {
    const [mark] = performance.getEntriesByName("map-shown");
    if (!mark) return requestAnimationFrame(look);
    // The frame after the one that draws it.
    requestAnimationFrame(() => requestAnimationFrame((now) => {
      const requests = performance.getEntriesByType("resource");
      const answered = requests.find((one) => one.name.includes("/api/map")).responseEnd;
      done([answered, now]);
    }));
  };
  look();
})"""


class _Answer(MapQuestion):
    """Gives the same answer to every question."""

    def __init__(self, answer: TrafficMap) -> None:
        self._answer = answer

    def ask(self, *_: object) -> TrafficMap:
        return self._answer


def make_answer() -> TrafficMap:
    """Return the map of a thousand workloads."""
    chance = random.Random(1)  # noqa: S311 - the same connections each time
    ends = [
        PairEnd(profile="0123456789abcdef", namespace=f"team-{one % NAMESPACES}", workload=f"Deployment/w{one}")
        for one in range(PLACES)
    ]
    chosen = {(one, (one + 1) % PLACES) for one in range(PLACES)}
    while len(chosen) < CONNECTIONS:
        one, other = chance.randrange(PLACES), chance.randrange(PLACES)
        if one != other:
            chosen.add((one, other))
    at_ns = _HOUR * HOUR_NS
    traffic = Traffic(Steps(_HOUR, 1, 1))
    for one, other in sorted(chosen):
        verdict = chance.choice(VERDICTS)
        key = PairKey(subject=ends[one], peer=ends[other], direction="egress", protocol=6, port=443,
                      verdict=verdict, reason="policy")  # fmt: skip
        traffic.add(Pair(cluster="c1", hour=_HOUR, key=key, verdicts=1, packets=1, first_ns=at_ns, last_ns=at_ns))
    places, edges = traffic.places_and_edges()
    return TrafficMap(begins_s=_HOUR * 3600, step_s=3600, steps=1, places=places, edges=edges, notes=[], empty="")


def cpu_s() -> float:
    """Return the CPU time of all processes that this one has started, and of those that these have."""
    parents, times = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)], times[int(folder.name)] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_ours(number: int) -> bool:
        while number in parents and number != os.getpid():
            number = parents[number]
        return number == os.getpid()

    return sum(ticks for one, ticks in times.items() if one != os.getpid() and is_ours(one)) / os.sysconf("SC_CLK_TCK")


def drag(tab: Tab, what: str, x: float, y: float, frames: int) -> None:
    """Drag what is at a place, and print the result."""
    tab.mouse.move(x, y)
    before = tab.locator("#map").screenshot()
    tab.mouse.down()
    began = cpu_s()
    times: list[float] = tab.evaluate(_DRAG, [frames, x, y])
    used = cpu_s() - began
    if tab.locator("#map").screenshot() == before:
        raise SystemExit(f"{what} has not moved")
    tab.mouse.up()
    tab.wait_for_timeout(500)
    gaps = sorted(later - one for one, later in pairwise(times))
    rate = 1000 * len(gaps) / (times[-1] - times[0])
    print(f"{what:<12} {rate:5.1f} frames/s, 95 % within {gaps[len(gaps) * 95 // 100]:4.0f} ms, "
          f"{1000 * used / len(gaps):4.0f} ms of CPU a frame")  # fmt: skip


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120)
    frames = parser.parse_args().frames
    unused = cast("Any", None)
    with served(FlowFeed(lambda: unused), unused, _Answer(make_answer()), "c1") as url, chromium() as browser:
        tab = browser.new_page(viewport={"width": 1360, "height": 900})
        tab.set_default_timeout(240_000)
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, Chromium {browser.version}")
        for turn in range(3):
            tab.goto(f"{url}map?since=1h&turn={turn}")
            answered, stands = tab.evaluate(_STANDS)
            print(f"first paint  {stands:5.0f} ms after the navigation, {stands - answered:4.0f} ms after the answer")
        tab.wait_for_timeout(1000)
        box = tab.locator("#map").bounding_box()
        assert box is not None
        drag(tab, "the map", box["x"] + 15, box["y"] + 15, frames)
        x, y = find(tab, box, "node")
        drag(tab, "a workload", x, y, frames)
        x, y = find(tab, box, "title")
        drag(tab, "a namespace", x, y, frames)


def find(tab: Tab, box: Any, what: str) -> tuple[float, float]:
    """Return where a place or the title of a namespace is: the tip beside the pointer says what is there."""
    wanted = "Double-click closes" if what == "title" else "verdicts"
    for step in range(6, 20_000, 6):
        x, y = box["x"] + box["width"] * 0.3 + step % 400, box["y"] + 60 + step // 400 * 6
        tab.mouse.move(x, y)
        if tab.locator("#tip").is_visible() and wanted in tab.locator("#tip").inner_text():
            return x, y
    raise SystemExit(f"no {what} was found on the map")


if __name__ == "__main__":
    main()
