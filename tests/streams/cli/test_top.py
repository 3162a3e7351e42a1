"""`weir top`: rates, and what is shown of them; no Kafka."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from rich.console import Console

from streams.cli.columns import OTHERS, read_columns
from streams.cli.main import command
from streams.cli.rates import TICKS, Rates, bars
from streams.cli.top import Snapshot, Top, json_lines, plain_lines, screen_of
from streams.kafka.connection import ReadError
from streams.kafka.records import Record
from streams.observing.choice import Choice
from streams.observing.filters import Filters
from tests.streams.observing.test_observe import make_value


class Clock:
    """A clock that goes on when it is said."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_of_the_time_that_has_passed_and_at_most_of_the_last_ticks() -> None:
    clock = Clock()
    rates = Rates(clock)
    for _ in range(4):
        rates.add(["a"], is_denied=False)
    rates.add(["a"], is_denied=True)
    clock.now += 2
    (found,) = rates.highest(10)
    assert (found.group, found.records, found.denied) == (("a",), 2.5, 0.5)
    assert list(found.ticks) == [*[0] * (TICKS - 1), 5]
    rates.next_tick()
    clock.now += 3  # a tick may be longer than another
    (found,) = rates.highest(10)
    assert (found.records, rates.window_s) == (1.0, 5.0)
    for _ in range(TICKS - 2):
        rates.next_tick()
        rates.add(["b"], is_denied=False)
        clock.now += 1
    assert [one.group for one in rates.highest(10)] == [("b",), ("a",)]
    rates.next_tick()
    assert [one.group for one in rates.highest(10)] == [("b",)], "of a nothing has come in all ticks"
    assert rates.window_s == 3 + TICKS - 2


def test_a_group_of_which_nothing_comes_is_forgotten() -> None:
    rates = Rates()
    rates.add(["a"], is_denied=False)
    for _ in range(TICKS + 1):
        rates.next_tick()
    assert (len(rates), rates.highest(10)) == (0, [])


def test_groups_are_bounded_and_the_others_are_counted_together() -> None:
    clock = Clock()
    rates = Rates(clock, 2)
    for name in "aaabbcd":
        rates.add([name], is_denied=name == "d")
    clock.now += 1
    assert [(one.group[0], one.records) for one in rates.highest(1)] == [("a", 3.0), (OTHERS, 2.0)]
    total = rates.total()
    assert (total.records, total.denied, total.ticks[-1]) == (7.0, 1.0, 7)


def test_bars_are_as_high_as_the_counts() -> None:
    assert bars([0, 1, 4, 8]) == " ▁▄█"
    assert bars([0, 1, 1000]) == " ▁█", "a little is not nothing"
    assert bars([0, 4, 8], is_plain=True) == " =#"
    assert bars([0, 0]) == "  "


class Arriving:
    """A topic in which some records arrive before each snapshot; an error stands for a broker that does not answer."""

    def __init__(self, *arriving: Sequence[bytes] | ReadError) -> None:
        self.arriving, self.end, self.started = list(arriving), 0, [dict[int, int]()]
        self.away: ReadError | None = None

    def bounds(self) -> dict[int, tuple[int, int]]:
        if self.away is not None:
            raise self.away
        return {0: (0, self.end)}

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        raise NotImplementedError

    def start(self, offsets: Mapping[int, int]) -> None:
        self.started.append(dict(offsets))

    def skip(self, partitions: Collection[int]) -> None:
        raise NotImplementedError

    def ended(self) -> Collection[int]:
        return ()

    def take(self, most: int, wait_s: float) -> list[Any]:
        time.sleep(wait_s)
        found = self.arriving.pop(0) if self.arriving else []
        self.away = found if isinstance(found, ReadError) else None
        if isinstance(found, ReadError):
            return []
        first, self.end = self.end, self.end + len(found)
        return [Record(0, first + number, b"", value, 0) for number, value in enumerate(found)]


def snapshots(topic: Arriving, count: int, by: str = "workload,verdict", **filters: Any) -> list[Snapshot]:
    """Return what is shown, with a tick for each time that something arrives."""
    found: list[Snapshot] = []
    running = Top(topic, Choice(Filters(**filters)), read_columns("--by", by, counted=True), 10, 0.05)
    running.run(found.append, count)
    return found


def values(count: int, **changes: Any) -> list[bytes]:
    return [make_value(id=f"{changes}-{number}", **changes) for number in range(count)]


def test_what_arrives_is_counted_by_fields_and_conditions() -> None:
    arriving = [*values(3), *values(2, disposition="deny"), *values(4, disposition="audit", node_name="n2")]
    (one,) = snapshots(Arriving(arriving), 1)
    assert [(rate.group, rate.ticks[-1], rate.denied > 0) for rate in one.rows] == [
        (("shop/Deployment/web", "audit"), 4, True),
        (("shop/Deployment/web", "allow"), 3, False),
        (("shop/Deployment/web", "deny"), 2, True),
    ]
    (one,) = snapshots(Arriving(arriving), 1, "namespace,port", nodes=["n1"])
    assert [(rate.group, rate.ticks[-1]) for rate in one.rows] == [(("shop", "8080"), 5)]
    (one,) = snapshots(Arriving([*values(1), *values(1)]), 1)
    assert one.rows[0].ticks[-1] == 1, "a repeat counts once"


def test_while_kafka_is_away_the_screen_says_since_when_and_goes_on_afterwards() -> None:
    gone = ReadError("no")
    before, away, longer, after = snapshots(Arriving(values(3), gone, gone, values(2, node_name="n2")), 4)
    assert before.away_since is None
    assert away.away_since is not None
    assert before.at - timedelta(seconds=1) < away.away_since <= before.at, "since the last answer"
    assert longer.away_since == away.away_since
    assert longer.rows[0].ticks[-4:] == [0, 3, 0, 0]
    assert after.away_since is None
    assert after.rows[0].ticks[-4:] == [3, 0, 0, 2]
    shown: list[str] = []
    plain_lines(shown.append, "kafka:9092")(longer)
    assert shown[1].startswith("Kafka at kafka:9092 has not answered since ")


def test_what_comes_faster_than_it_is_counted_is_skipped_and_said() -> None:
    class Flooded(Arriving):
        def bounds(self) -> dict[int, tuple[int, int]]:
            return {0: (0, self.end + (600_000 if self.end == 1 else 0))}

    topic = Flooded(values(1), values(1, node_name="n2"))
    first, second = snapshots(topic, 2)
    assert (first.skipped, second.skipped) == (600_000, 600_000)
    assert topic.started[-1] == {0: 600_001}, "it goes on at the end"
    shown: list[str] = []
    plain_lines(shown.append, "k")(second)
    assert shown[1] == "600,000 records were skipped: they come faster than they are counted"


def test_a_screen_shows_rates_bars_and_groups_and_nothing_that_a_terminal_obeys() -> None:
    hostile = make_value(id="h-1", src={"pod_name": "a\x1b[2J", "namespace": "shop"})
    (one,) = snapshots(Arriving([*values(2), hostile]), 1, "src.pod,verdict")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, height=20, color_system=None, _environ={})
    with console.screen() as screen:
        screen_of(screen, console, "k")(one)
    text = out.getvalue()
    assert "records/s" in text
    for word in ("PER S", "DENIED", "SRC.POD", "VERDICT", "web-0", "a\\x1b[2J"):
        assert word in text
    assert "\x1b[2J" not in text.replace("a\\x1b[2J", "")
    assert "\x1b[?25h" in text.rpartition("records/s")[2], "the cursor is given back"
    assert "\x1b[?1049l" in text.rpartition("records/s")[2], "the screen is given back"


def test_json_has_a_snapshot_on_a_line() -> None:
    written: list[bytes] = []
    for snapshot in snapshots(Arriving(values(2)), 1, "namespace,port,src.zone"):
        json_lines(written.append)(snapshot)
    (one,) = [orjson.loads(line) for line in written]
    assert (one["kafka_away_since"], one["skipped"], one["groups"]) == (None, 0, 1)
    (rate,) = one["rates"]
    assert (rate["namespace"], rate["src.zone"], rate["ticks"][-1]) == ("shop", None, 2)
    assert rate["port"] == 8080, "a number, as weir observe --by writes it"
    assert rate["per_s"] == pytest.approx(one["total"]["per_s"], rel=0.5)
    assert 0 < rate["per_s"] <= 2 / 0.05


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "verdct"], "did you mean verdict?"),
        (["--by", "time"], "differs from record to record"),
        (["--rows", "0"], "not in the range"),
        (["--every", "0"], "not in the range"),
        (["--not", "--rows", "3"], "--not before --rows"),
        (["--port", "80", "--not", "--port", "80"], "no flow fits"),
        (["--cel", "1 +"], "at column 4"),
    ],
)
def test_options_that_are_wrong_say_how(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(command, ["top", *arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_bars_rise_with_the_counts() -> None:
    for low, high in itertools.pairwise(range(1, 50)):
        shown = bars([low, high, 50])
        assert shown[0] <= shown[1] <= shown[2]
