"""What `weir backtest`, `recommend`, `policies` and `diff` have in common: options, what they read, how they end."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

import click

from enrich.history.counted_time import BEHIND_S, Stretch
from enrich.history.distinctions import Network
from enrich.history.moments import moment
from enrich.history.pair_hours import TooManyPairsError
from enrich.history.stand_ins import EVERYWHERE, Known
from enrich.history.timeline import Timeline
from enrich.policy.matching import PolicyView
from enrich.runtime.console import leave_stdout
from enrich.runtime.settings import SettingsError
from enrich.sources.manifest_documents import ManifestError
from enrich.wire.pair import HOUR_NS, Pair
from enrich.wire.pair_records import SECOND_NS
from enrich.wire.topics import Topics
from streams.cli.kafka_failure import needs_to_read, say_why
from streams.cli.kafka_options import chosen_cluster, cluster_option, kafka_options, read_settings
from streams.cli.pairs_reading import NO_LIMITS, Limits, PairsReading, not_counted, read_pairs
from streams.cli.past import Past, load_past, parse_pod_cidrs
from streams.cli.terminal import printable, say
from streams.kafka.connection import Connection, ReadError
from streams.observing.observe import parse_window
from streams.settings import Settings

DENIES: Final = 1
WRONG: Final = 2
CANNOT_SAY: Final = 3
_OF_ONE: Final = " (-n NAMESPACE, where a command has it, asks about others)"
_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option("--since", default="7d", show_default=True, help="Begin of the window: 5m, 2h, 7d ago, or a time."),
    click.option("--until", help="End of the window, in the same forms. [now]"),
    click.option("--pod-cidr", "pod_cidrs", multiple=True, help="Where pods have addresses. [spec.podCIDRs of nodes]"),
    click.option(
        "--for-reader", is_flag=True, hidden=True, help="Name nothing of namespaces that are not asked about."
    ),
    cluster_option,
    kafka_options,
)


strict_option = click.option(
    "--strict",
    is_flag=True,
    help="Exit with 3 if it cannot say of anything that was allowed, or if pairs were not counted for a part of the "
    "window.",
)


class CannotSayError(Exception):
    """What is kept does not answer; the message says why."""


def window_options(command: _Command) -> _Command:
    """Give a command the options that say which window of time is asked about, and where it is kept."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(slots=True)
class Window:
    """A window of time: what was seen in it, and what the policies are at its end."""

    since_ns: int
    until_ns: int
    past: Past
    _reading: PairsReading
    notes: list[str] = field(default_factory=list)
    """What a person must know about the answer."""
    complete_ns: int = 0
    """From here on everything that was logged is in the pairs."""
    holes: list[Stretch] = field(default_factory=list)
    """When pairs were not counted, or not all, after counting had begun."""
    for_reader: bool = False
    """The answer is for somebody who may only see the namespace that is asked about: it names nothing of others but the
    ends that were seen. The page asks so."""

    def __post_init__(self) -> None:
        if self.for_reader and self.notes:
            # They are about the whole cluster: profiles and entries of any namespace, addresses of any pod.
            self.notes = [f"{len(self.notes)} notes about the whole cluster are left out"]

    @property
    def cluster(self) -> str:
        """The cluster."""
        return self.past.timeline.cluster

    @property
    def has_losses(self) -> bool:
        """Whether nothing is known of some connections: a part of the window was not counted, its beginning included,
        or records cannot be read. Ask after :meth:`pairs`."""
        return bool(self.holes) or self.complete_ns > self.since_ns or self._reading.has_losses

    def view(self, namespaces: Collection[str] | None = None) -> PolicyView:
        """Return the policies at the end of the window. ``namespaces``: whose pods are asked about; None: all. The
        NetworkPolicies of others may be missing. Raises CannotSayError."""
        if why := self.past.timeline.unknown_policies(namespaces, self.until_ns):
            if self.for_reader:
                raise CannotSayError(f"the policies at {moment(self.until_ns)} are not all known")
            hint = "" if self.past.timeline.unknown_policies((), self.until_ns) else _OF_ONE
            raise CannotSayError(f"the policies at {moment(self.until_ns)}: {why}{hint}")
        return self.past.timeline.view_at(self.until_ns)

    def versions_known_since_ns(self) -> int:
        """Return from when on the journal has every version, up to the end of the window."""
        gaps = self.past.timeline.gaps()
        return max([self.since_ns, *(gap.until_ns for gap in gaps if self.since_ns < gap.until_ns <= self.until_ns)])

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs of the window, once. Afterwards :attr:`complete_ns` says from when on all are there. Raises
        :class:`~streams.kafka.connection.ReadError`, TooManyPairsError, and CannotSayError if pairs were not counted in
        the window."""
        found = False
        for pair in self._reading:
            if pair.last_ns >= self.since_ns and pair.first_ns <= self.until_ns:
                found = True
                yield pair
        self._note_what_is_missing(found=found)

    def _note_what_is_missing(self, *, found: bool) -> None:
        """Say which part of the window is not in the pairs. Raises CannotSayError if that is all of it."""
        reading = self._reading
        begins_ns = min(reading.complete_since_hour * HOUR_NS, self.until_ns)
        since_s, until_s = self.since_ns // SECOND_NS, min(self.until_ns // SECOND_NS, int(time.time()) - BEHIND_S)
        self.holes = reading.counted.holes(self.cluster, since_s, until_s)
        if self.holes and self.holes[0].since_s <= max(since_s, begins_ns // SECOND_NS):
            # Nobody counted before.
            begins_ns = max(begins_ns, min(self.holes.pop(0).until_s * SECOND_NS, self.until_ns))
            begins_ns = self.until_ns if begins_ns // SECOND_NS >= until_s else begins_ns
        if why := not_counted(begins_ns, self.until_ns, found=found):
            raise CannotSayError(why)
        if begins_ns > self.since_ns:
            self.notes.append(f"the pairs are complete from {moment(begins_ns)} on, and not before")
            self.complete_ns = begins_ns
        for hole in self.holes:
            since_ns, end_ns = hole.since_s * SECOND_NS, hole.until_s * SECOND_NS
            self.notes.append(f"pairs were not counted, or not all, from {moment(since_ns)} to {moment(end_ns)}")
            self.complete_ns = end_ns
        if missed := reading.counted.missed(self.cluster, since_s, until_s):
            first, last = moment(missed.since_s * SECOND_NS), moment(missed.until_s * SECOND_NS)
            self.notes.append(
                f"{missed.verdicts} verdicts from {first} to {last} came over a day late, and are in no pair"
            )
        if reading.unreadable:
            self.notes.append(f"{reading.unreadable} records of pairs cannot be read")
        if reading.late:
            self.notes.append(f"{reading.late} records of pairs were written over a day late, and are left out")


def run_in_window(given: Mapping[str, Any], answer: Callable[[Window], int]) -> NoReturn:
    """Read what the options ask for, have it answered, and exit as :func:`end_with` says.

    ``answer`` raises CannotSayError if what is kept does not answer."""
    try:
        settings, connection = read_settings(given["kafka"], given["prefix"])
        span = parse_window(given["since"], given["until"], datetime.now(UTC))
        cidrs = parse_pod_cidrs(given["pod_cidrs"])
    except (SettingsError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    cluster = chosen_cluster(given["cluster"])
    topics = settings.topics
    end_with(
        lambda: answer(_open(settings, connection, cluster, span, cidrs, for_reader=given["for_reader"])),
        connection,
        (topics.journal.name, topics.pairs.name),
    )


def window_of_names(
    connection: Connection, topics: Topics, span: tuple[int, int], cluster: str, limits: Limits = NO_LIMITS
) -> Window:
    """Return a window for which the journal is not read: pairs have the names of their ends. Raises ReadError."""
    since_ns, until_ns = span
    past = Past(Timeline(cluster, ()), Known({}, EVERYWHERE))
    hours = since_ns // HOUR_NS, until_ns // HOUR_NS + 1
    return Window(since_ns, until_ns, past, PairsReading(connection, topics, *hours, cluster, limits))


def end_with(answer: Callable[[], int], connection: Connection, reads: Sequence[str]) -> NoReturn:
    """Exit with the code of ``answer``, which reads some topics, or with :data:`CANNOT_SAY`. A failure never exits with
    1, which is an answer."""
    try:
        code = answer()
        sys.stdout.flush()
    except ReadError as error:
        say_why(error, connection, needs_to_read(*reads))
        code = CANNOT_SAY
    except (CannotSayError, TooManyPairsError) as error:
        click.echo(f"weir: cannot say: {printable(str(error))}", err=True)
        code = CANNOT_SAY
    except BrokenPipeError:
        leave_stdout()
        code = CANNOT_SAY
    except OSError as error:
        click.echo(f"weir: the answer cannot be written: {printable(str(error))}", err=True)
        code = CANNOT_SAY
    except Exception:
        traceback.print_exc()
        code = CANNOT_SAY
    sys.exit(code)


def exit_code(*, denies: bool, said: bool, doubts: bool) -> int:
    """Return the exit code of a command that says what a change denies. ``denies``: something that was allowed.
    ``said``: whether there is an answer for anything that was seen. ``doubts``: whether what has none fails, too."""
    return DENIES if denies else CANNOT_SAY if doubts or not said else 0


def refuse_files(error: ManifestError) -> NoReturn:
    """Say what is wrong with the files of a command, each problem on a line of its own, and exit."""
    say(error.problems)
    sys.exit(WRONG)


def _open(
    settings: Settings,
    connection: Connection,
    cluster: str,
    span: tuple[int, int],
    cidrs: Sequence[Network],
    *,
    for_reader: bool,
) -> Window:
    """Read the journal, and find the pairs. Raises ReadError."""
    since_ns, until_ns = span
    past = load_past(connection, settings.topics, cluster, since_ns, cidrs)
    hours = since_ns // HOUR_NS, until_ns // HOUR_NS + 1
    reading = read_pairs(connection, settings.topics, *hours, past.timeline.cluster)
    return Window(since_ns, until_ns, past, reading, list(past.notes), for_reader=for_reader)
