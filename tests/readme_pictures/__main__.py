"""``python -m tests.readme_pictures``: draws the README's pictures of the page anew, docs/page-live.svg and
docs/page-map.svg.

The page is the real one in Chromium, on loopback. What it shows is made up, because a picture is of the page: records
come from a reader without Kafka, and the map is added up from pairs. SVG is text, which git compares and compresses.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

from enrich.wire.flow import End, Flow, NamedPolicy
from enrich.wire.pair import HOUR_NS, Pair, PairEnd, PairKey
from streams.kafka.records import Record
from streams.web.feed import FlowFeed
from streams.web.map_question import MapQuestion, TrafficMap
from streams.web.past import PastQuestions, Shown
from streams.web.traffic import Steps, Traffic
from tests.served_page import chromium, served
from tests.streams.web.records import make_flow

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
SECONDS: Final = 20
"""How long records arrive before the picture of the live view is taken."""
CONNECTIONS: Final = (
    ("shop/web", "shop/api", 8080, "allow", 40), ("shop/api", "data/postgres", 5432, "allow", 25),
    ("shop/api", "data/redis", 6379, "allow", 30), ("ingress/nginx", "shop/web", 8080, "allow", 35),
    ("monitoring/prometheus", "shop/api", 9090, "allow", 8), ("batch/report", "data/postgres", 5432, "deny", 9),
    ("monitoring/prometheus", "data/postgres", 9187, "deny", 6), ("shop/web", "data/postgres", 5432, "audit", 3),
    ("shop/checkout", "shop/api", 8080, "allow", 12), ("monitoring/prometheus", "ingress/nginx", 9113, "allow", 8),
)  # fmt: skip
"""Source, destination, port, verdict, and how often, beside each other."""
_STEPS: Final = 24
"""Hours of the map."""


def make_record(number: int, chance: random.Random) -> Flow:
    """Return a record of now."""
    source, destination, port, verdict, _ = chance.choices(CONNECTIONS, [one[4] for one in CONNECTIONS])[0]
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    policy = NamedPolicy(kind="NetworkPolicy", namespace=destination.split("/")[0], name=destination.split("/")[1])
    why: dict[str, Any] = {"reason": "policy", "policies": (policy,)}
    if verdict == "deny":
        why = {"reason": "default_deny", "policies": (), "isolated_by": (policy,)}
    flow = make_flow(number, disposition=verdict, src=make_end(source), dest=make_end(destination), timestamp=when,
                     last_timestamp=when, **why)  # fmt: skip
    return msgspec.structs.replace(flow, connection=msgspec.structs.replace(flow.connection, dest_port=port))


def make_end(path: str) -> End:
    """Return a pod of a workload."""
    namespace, name = path.split("/")
    return End(pod_name=f"{name}-5d8f7", namespace=namespace, pod_namespace=namespace, node_name="n1",
               workload_kind="Deployment", workload_name=name, labels={"app": name})  # fmt: skip


class _Records:
    """Has some records a second, as a topic that somebody writes to."""

    def __init__(self) -> None:
        self._chance, self._number = random.Random(3), 0  # noqa: S311 - the same picture each time, but for its times

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {0: (0, self._number)}

    def start(self, offsets: object) -> None:
        """Do nothing."""

    def take(self, most: int, wait_s: float) -> list[Record]:
        time.sleep(wait_s)
        begin = self._number
        self._number += min(most, self._chance.randrange(1, 9))
        values = [msgspec.json.encode(make_record(one, self._chance)) for one in range(begin, self._number)]
        return [Record(0, begin + at, b"", value, 0) for at, value in enumerate(values)]

    def close(self) -> None:
        """Do nothing."""


class _Past(PastQuestions):
    def __init__(self) -> None:
        """Has no records."""

    def flows(self, *_: object) -> Shown:
        return Shown([], is_whole=True)


class _Map(MapQuestion):
    def __init__(self) -> None:
        """Has one map."""

    def ask(self, *_: object) -> TrafficMap:
        first = int(time.time() // 3600) - _STEPS
        traffic = Traffic(Steps(first, 1, _STEPS))
        for *ends, port, verdict, number in CONNECTIONS:
            subject, peer = (
                PairEnd(
                    profile="0123456789abcdef", namespace=end.split("/")[0], workload=f"Deployment/{end.split('/')[1]}"
                )
                for end in ends
            )
            key = PairKey(subject=subject, peer=peer, direction="egress", protocol=6, port=port,
                          verdict=cast("Any", verdict), reason="policy")  # fmt: skip
            for hour in range(_STEPS):
                count = number * (4 + (hour * 7 + port) % 5 + (8 if 8 <= hour <= 18 else 0))
                at_ns = (first + hour) * HOUR_NS
                traffic.add(Pair(cluster="c1", hour=first + hour, key=key, verdicts=count, packets=count,
                                 first_ns=at_ns, last_ns=at_ns))  # fmt: skip
        places, edges = traffic.places_and_edges()
        return TrafficMap(
            begins_s=first * 3600, step_s=3600, steps=_STEPS, places=places, edges=edges, notes=[], empty=""
        )


def draw(tab: Tab, name: str) -> None:
    """Write what a tab shows."""
    file = ROOT / f"docs/page-{name}.svg"
    file.write_text(tab.evaluate((HERE / "as_svg.js").read_text()))
    print(f"picture: {file.relative_to(ROOT)}, {file.stat().st_size >> 10} KiB")


def main() -> None:
    """Draw both pictures."""
    feed = FlowFeed(cast("Any", _Records))
    with served(feed, _Past(), _Map(), "prod") as url, chromium() as browser:
        feed.start()
        try:
            _draw_all(browser, url)
        finally:
            feed.stop()


def _draw_all(browser: Browser, url: str) -> None:
    context = browser.new_context(viewport={"width": 1180, "height": 620}, color_scheme="light", timezone_id="UTC")
    context.add_init_script(path=HERE / "recorder.js")
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_timeout(SECONDS * 1000)
    draw(tab, "live")
    tab.set_viewport_size({"width": 1180, "height": 760})
    tab.goto(f"{url}map")
    tab.wait_for_function("() => performance.getEntriesByName('map-shown').length")
    tab.wait_for_timeout(1000)
    draw(tab, "map")


if __name__ == "__main__":
    main()
