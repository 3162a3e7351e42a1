"""Judges the records of a window in several processes, each with a share of the partitions.

Python judges in one thread, so a second core is only of use to a second process. Each reads the journal by itself,
which costs less than to hand it over. The records of a subject are in one partition, so that hardly any text is judged
twice.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Final, NamedTuple

from enrich.history.epochs import Epochs
from enrich.history.moments import moment
from enrich.history.record_pods import RecordPods
from enrich.history.stand_ins import EVERYWHERE
from enrich.history.verifying import Verifier
from enrich.wire.address_interval import AddressInterval
from enrich.wire.topics import Topics
from streams.cli.explain_past import intervals_of
from streams.cli.past import Past, load_past
from streams.cli.terminal import progress_removed, show_progress
from streams.cli.verify_epochs import read_epochs
from streams.cli.verifying import Account, Sums
from streams.kafka.connection import Connection, ReadError
from streams.kafka.ranges import RunReader, read_runs
from streams.kafka.reading import TopicReader

WORTH_A_PROCESS: Final = 200_000
"""Records that take about as long as to start one more process."""
MAX_PROCESSES: Final = 4
"""Each takes memory for the journal and up to :data:`streams.cli.verifying.MAX_BYTES`."""
_FETCH_BYTES: Final = 1 << 20
_PROGRESS_S: Final = 1.0


class Request(NamedTuple):
    """What is to be judged: the same for each process."""

    connection: Connection
    topics: Topics
    cluster: str
    window: tuple[int, int]
    delay_ns: int
    namespaces: frozenset[str]
    until_ms: int | None
    """As :func:`streams.kafka.ranges.read_runs` has it."""


class Share(NamedTuple):
    """Some partitions of the topic, and the offsets between which they are read."""

    starts: Mapping[int, int]
    ends: Mapping[int, int]
    cut: frozenset[int] = frozenset()
    """Partitions of which retention may have removed records of the window."""

    @property
    def records(self) -> int:
        """How many records there are, about."""
        return sum(end - self.starts[partition] for partition, end in self.ends.items())


@dataclass(slots=True)
class Judgement:
    """What was found out about the records of a share."""

    sums: Sums
    left_early: int = 0
    """Partitions that were not read to their end."""
    notes: list[str] = field(default_factory=list)


def window_of(request: Request) -> Share:
    """Return all records of the window. Raises ReadError."""
    reader = TopicReader(request.connection, request.topics.flows.name)
    try:
        bounds = reader.bounds()
        starts = reader.at_time(request.window[0] // 1_000_000)
    finally:
        reader.close()
    cut = frozenset(partition for partition, (first, _) in bounds.items() if 0 < first == starts[partition])
    return Share(starts, {partition: end for partition, (_, end) in bounds.items()}, cut)


def split(whole: Share, processes: int) -> list[Share]:
    """Return up to so many shares, of about as many records each."""
    counts = {partition: end - whole.starts[partition] for partition, end in whole.ends.items()}
    chosen: list[list[int]] = [[] for _ in range(max(1, min(processes, sum(count > 0 for count in counts.values()))))]
    for partition in sorted(counts, key=lambda one: -counts[one]):
        min(chosen, key=lambda part: sum(counts[one] for one in part)).append(partition)
    return [
        Share({one: whole.starts[one] for one in part}, {one: whole.ends[one] for one in part},
              whole.cut.intersection(part))
        for part in chosen
    ]  # fmt: skip


def judge_shares(request: Request, shares: Sequence[Share]) -> tuple[Past, Judgement]:
    """Judge all shares, the first of them here. Raises ReadError."""
    total = sum(one.records for one in shares)
    with progress_removed(), _started(request, shares[1:]) as others:
        past = load(request)
        found = judge(request, shares[0], past, lambda own: _show(own + others.read(), total))
        others.add_to(found, total)
    return past, found


def load(request: Request) -> Past:
    """Read what the judging needs to know. Raises ReadError."""
    return load_past(request.connection, request.topics, request.cluster, request.window[0], EVERYWHERE)


def judge(request: Request, share: Share, past: Past, progress: Callable[[int], None]) -> Judgement:
    """Judge the records of a share. ``progress`` gets their number, every second. Raises ReadError."""
    notes: list[str] = []

    def epochs() -> Epochs:
        since_ns = request.window[0] - request.delay_ns
        return read_epochs(request.connection, request.topics.status.name, past.timeline.cluster, since_ns, notes)

    verifier = Verifier(past.timeline, _pods(request, past), request.window, request.delay_ns, epochs)
    account = Account(verifier, past.timeline.cluster, request.window, request.namespaces)
    reader = TopicReader(request.connection, request.topics.flows.name, fetch_bytes=_FETCH_BYTES)
    try:
        reader.narrow(share.ends)
        found = account_for(reader, request, share, account, progress)
    finally:
        reader.close()
    found.notes += notes
    return found


def _pods(request: Request, past: Past) -> RecordPods:
    intervals: Sequence[AddressInterval] = ()
    try:
        intervals = intervals_of(request.connection, request.topics.endpoints.name, past.timeline.cluster)
    except ReadError as error:
        past.notes.append(f"which pods had which addresses cannot be read: {error}")
    return RecordPods(past.known, intervals, past.timeline.refused_profiles.values())


def account_for(
    reader: RunReader, request: Request, share: Share, account: Account, progress: Callable[[int], None]
) -> Judgement:
    """Read a share, and have all of its records counted; note if some are no longer kept. Raises ReadError."""
    cut, left_early, notes = set(share.cut), set[int](), list[str]()
    shown = time.monotonic()
    topic = request.topics.flows.name
    for run in read_runs(reader, share.starts, share.ends, request.until_ms, topic=topic, left_early=left_early):
        if run.partition in cut:
            cut.discard(run.partition)
            since = moment(run.times_ms[0] * 1_000_000)
            notes.append(f"partition {run.partition} begins at {since}: earlier records are no longer kept")
        account.add(run.values)
        if time.monotonic() - shown > _PROGRESS_S:
            shown = time.monotonic()
            progress(account.sums.read)
    notes += [f"partition {one} is empty: the records that it had are no longer kept" for one in sorted(cut)]
    return Judgement(account.finish(), len(left_early), notes)


def _show(read: int, total: int) -> None:
    show_progress(f"{read:,} of {total:,} records")


# --- other processes


class _Others:
    """Other processes, and what they have sent."""

    def __init__(self, pipes: Sequence[Pipe]) -> None:
        self._read: dict[Pipe, int] = dict.fromkeys(pipes, 0)
        self._found: dict[Pipe, Judgement] = {}

    def read(self) -> int:
        """Return how many records they have read. Raises ReadError if one of them cannot read."""
        self._hear(0)
        return sum(self._read.values())

    def add_to(self, own: Judgement, total: int) -> None:
        """Wait until all have judged their shares, and add what they found. Raises ReadError."""
        read = own.sums.read
        while len(self._found) < len(self._read):
            self._hear(_PROGRESS_S)
            _show(read + sum(self._read.values()), total)
        for found in self._found.values():
            own.sums.add(found.sums)
            own.left_early += found.left_early
            own.notes += found.notes

    def _hear(self, wait_s: float) -> None:
        pipes = [one for one in self._read if one not in self._found]
        ready = wait(pipes, wait_s) if pipes else ()
        for pipe in (one for one in pipes if one in ready):
            try:
                said = pipe.recv()
            except (EOFError, OSError):  # between two messages, or in the middle of one
                raise ReadError("a process that judges a part of the records has ended: out of memory?") from None
            if isinstance(said, ReadError):
                raise said
            if isinstance(said, Judgement):
                self._found[pipe] = said
            else:
                self._read[pipe] = said


@contextmanager
def _started(request: Request, shares: Sequence[Share]) -> Iterator[_Others]:
    """Start a process for each share. None of them outlives this."""
    # A forked process would have librdkafka's locks as they just were, and not its threads.
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for share in shares:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(theirs, request, share), daemon=True)
            _start_without_interrupts(process)
            theirs.close()
            pipes.append(mine)
            processes.append(process)
        yield _Others(pipes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _start_without_interrupts(process: BaseProcess) -> None:
    """Start a process that Ctrl-C does not reach: the first process gets it, too, and ends this one.

    A new interpreter leaves an ignored signal ignored. If it ignored the signal by itself, it would be too late for one
    that comes while it imports."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)


def _work(pipe: Pipe, request: Request, share: Share) -> None:
    """Judge a share, in a process of its own. If the first process ends, so does this one: the pipe breaks."""
    try:
        pipe.send(judge(request, share, load(request), pipe.send))
    except ReadError as error:
        pipe.send(ReadError(str(error)))
    except BrokenPipeError:
        pass
