"""What `weir top` does: it follows the flows, counts them by groups, and shows the rates again and again.

While Kafka cannot be reached, the client tries again by itself, and what was counted stays shown, with the time since
when nothing is heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from rich.console import Console, Group, ScreenContext
from rich.table import Table
from rich.text import Text

from streams.cli.columns import Read, row_of
from streams.cli.rates import TICKS, Rate, Rates, as_object, bars
from streams.cli.terminal import printable
from streams.kafka.connection import ReadError
from streams.kafka.ranges import Reader, ends_of
from streams.observing.choice import Choice
from streams.observing.observe import Selection

_RECORDS_PER_READ: Final = 1000
_MAX_BEHIND: Final = 500_000
"""At more records that wait in Kafka, the ones before the latest are skipped: a rate is about now."""
_FIXED_LINES: Final = 6
"""Lines of a screen that are not rows of the table."""


@dataclass
class Snapshot:
    """What is shown at one moment."""

    at: datetime
    names: Sequence[str]
    total: Rate
    rows: Sequence[Rate]
    groups: int
    window_s: float
    tick_s: float
    away_since: datetime | None
    """Since when Kafka cannot be reached."""
    skipped: int
    """Records that were not counted, because they came faster than they are counted."""


Show = Callable[[Snapshot], None]


@dataclass
class Top:
    """Follows a topic. ``rows`` is how many groups are shown."""

    reader: Reader
    choice: Choice
    columns: Mapping[str, Read]
    rows: int
    tick_s: float
    _rates: Rates = field(init=False)
    _away_since: datetime | None = None
    _heard_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _skipped: int = 0
    _next: dict[int, int] = field(default_factory=dict)
    """The next offset of each partition."""

    def __post_init__(self) -> None:
        self._rates = Rates()

    def run(self, show: Show, count: int | None = None) -> None:
        """Show a snapshot after each tick, until interrupted, or ``count`` times."""
        self._next = ends_of(self.reader)
        self.reader.start(self._next)
        selection, due = Selection(self.choice), time.monotonic() + self.tick_s
        while count is None or count > 0:
            while (left_s := due - time.monotonic()) > 0:
                for record in self.reader.take(_RECORDS_PER_READ, min(left_s, 0.2)):
                    self._next[record.partition] = record.offset + 1
                    shown = selection.pick(record.value)
                    if shown is not None:
                        is_denied = shown.flow.disposition in {"deny", "audit"}
                        self._rates.add(row_of(self.columns, shown.flow), is_denied=is_denied)
            self._look_at_kafka()
            show(self._snapshot())
            self._rates.next_tick()
            due = time.monotonic() + self.tick_s
            count = None if count is None else count - 1

    def _look_at_kafka(self) -> None:
        """Find out whether Kafka answers, and skip records if too many wait."""
        try:
            ends = ends_of(self.reader)
        except ReadError:
            self._away_since = self._away_since or self._heard_at
            return
        self._away_since, self._heard_at = None, datetime.now(UTC)
        behind = sum(max(0, end - self._next.get(partition, end)) for partition, end in ends.items())
        if behind > _MAX_BEHIND:
            self._skipped += behind
            self._next = ends
            self.reader.start(ends)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            datetime.now(UTC), list(self.columns), self._rates.total(), self._rates.highest(self.rows),
            len(self._rates), self._rates.window_s, self.tick_s, self._away_since, self._skipped,
        )  # fmt: skip


def lines_of(snapshot: Snapshot, servers: str) -> list[str]:
    """Return the lines above the table."""
    total = snapshot.total
    first = (
        f"{snapshot.at:%H:%M:%S}  {total.records:,.1f} records/s, {total.denied:,.1f} denied/s, of the last "
        f"{snapshot.window_s:,.0f} s, in {snapshot.groups:,} groups"
    )
    lines = [first]
    if snapshot.away_since is not None:
        since = f"{snapshot.away_since:%H:%M:%S}"
        lines.append(
            f"Kafka at {servers} has not answered since {since} (UTC); the rates are of before, and go on then"
        )
    if snapshot.skipped:
        lines.append(f"{snapshot.skipped:,} records were skipped: they come faster than they are counted")
    return lines


def screen_of(screen: ScreenContext, console: Console, servers: str) -> Show:
    """Return what shows snapshots on a terminal, one in place of the other."""
    is_plain = not console.encoding.startswith("utf")

    def show(snapshot: Snapshot) -> None:
        lines = Text("\n".join(lines_of(snapshot, servers)), style="bold")
        rows = max(1, console.height - _FIXED_LINES)
        screen.update(Group(lines, _table(snapshot, rows, is_plain=is_plain)))

    return show


def _table(snapshot: Snapshot, rows: int, *, is_plain: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("PER S", "DENIED"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(f"LAST {snapshot.tick_s * TICKS:,.0f} S", no_wrap=True, width=TICKS)
    for name in snapshot.names:
        table.add_column(name.upper(), overflow="fold")
    for rate in snapshot.rows[:rows]:
        # Whoever may write to the topic chooses texts, and a terminal obeys some.
        fields = [Text(printable(text) or "-") for text in rate.group]
        fields += [Text("") for _ in snapshot.names[len(fields) :]]
        denied = Text(f"{rate.denied:,.1f}", style="bold red" if rate.denied else "dim")
        table.add_row(f"{rate.records:,.1f}", denied, Text(bars(rate.ticks, is_plain=is_plain)), *fields)
    return table


def plain_lines(write: Callable[[str], None], servers: str) -> Show:
    """Return what writes snapshots one behind the other, for a file or a pipe."""

    def show(snapshot: Snapshot) -> None:
        for line in lines_of(snapshot, servers):
            write(line)
        for rate in snapshot.rows:
            group = "  ".join(printable(text) or "-" for text in rate.group)
            write(f"{rate.records:>12,.1f}  {rate.denied:>12,.1f}  {bars(rate.ticks)}  {group}")
        write("")

    return show


def json_lines(write: Callable[[bytes], None]) -> Show:
    """Return what writes each snapshot as a JSON object on a line."""

    def show(snapshot: Snapshot) -> None:
        away = snapshot.away_since
        written: dict[str, Any] = {
            "time": f"{snapshot.at:%Y-%m-%dT%H:%M:%S.%f}Z",
            "window_s": snapshot.window_s,
            "tick_s": snapshot.tick_s,
            "groups": snapshot.groups,
            "kafka_away_since": None if away is None else f"{away:%Y-%m-%dT%H:%M:%S.%f}Z",
            "skipped": snapshot.skipped,
            "total": as_object((), snapshot.total),
            "rates": [as_object(snapshot.names, rate) for rate in snapshot.rows],
        }
        write(orjson.dumps(written))

    return show
