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
from streams.journal.reading import MAX_MEMORY, JournalSizeError
from streams.kafka.connection import Connection, ReadError
from streams.kafka.ranges import RunReader, read_runs
from streams.kafka.reading import TopicReader

WORTH_A_PROCESS: Final = 200_000
"""Records that take about as long as to start one more process."""
MAX_PROCESSES: Final = 4
"""Each takes memory for the journal, all but the first together no more than the first one alone may, and up to
:data:`streams.cli.verifying.MAX_BYTES`."""
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

    def add(self, other: Judgement) -> None:
        """Add what was found out about another share."""
        self.sums.add(other.sums)
        self.left_early += other.left_early
        self.notes += other.notes


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
        left = others.add_to(found, total)
    for share in left:
        found.add(judge(request, share, past, lambda own, done=found.sums.read: _show(own + done, total)))  # type: ignore[misc]
    return past, found


def load(request: Request, max_bytes: int = MAX_MEMORY) -> Past:
    """Read what the judging needs to know, with so much memory for the journal. Raises ReadError."""
    window, topics = request.window, request.topics
    return load_past(request.connection, topics, request.cluster, window[0], EVERYWHERE, max_bytes)


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

    def __init__(self, pipes: Mapping[Pipe, Share]) -> None:
        self._shares = pipes
        self._left: list[Share] = []
        self._read: dict[Pipe, int] = dict.fromkeys(pipes, 0)
        self._found: dict[Pipe, Judgement] = {}

    def read(self) -> int:
        """Return how many records they have read. Raises ReadError if one of them cannot read."""
        self._hear(0)
        return sum(self._read.values())

    def add_to(self, own: Judgement, total: int) -> list[Share]:
        """Wait until all have judged their shares, and add what they found. Return the shares that are left, because
        their processes had not enough memory for the journal. Raises ReadError."""
        read = own.sums.read
        while len(self._found) + len(self._left) < len(self._shares):
            self._hear(_PROGRESS_S)
            _show(read + sum(self._read.values()), total)
        for found in self._found.values():
            own.add(found)
        return self._left

    def _hear(self, wait_s: float) -> None:
        pipes = [one for one in self._read if one not in self._found]
        ready = wait(pipes, wait_s) if pipes else ()
        for pipe in (one for one in pipes if one in ready):
            try:
                said = pipe.recv()
            except (EOFError, OSError):  # between two messages, or in the middle of one
                raise ReadError("a process that judges a part of the records has ended: out of memory?") from None
            if isinstance(said, JournalSizeError):
                self._left.append(self._shares[pipe])
                del self._read[pipe]
                continue
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
    pipes: dict[Pipe, Share] = {}
    processes = []
    try:
        for share in shares:
            mine, theirs = context.Pipe(duplex=False)
            args = theirs, request, share, MAX_MEMORY // len(shares)
            process = context.Process(target=_work, args=args, daemon=True)
            _start_without_interrupts(process)
            theirs.close()
            pipes[mine] = share
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


def _work(pipe: Pipe, request: Request, share: Share, max_bytes: int) -> None:
    """Judge a share, in a process of its own. If the first process ends, so does this one: the pipe breaks."""
    try:
        pipe.send(judge(request, share, load(request, max_bytes), pipe.send))
    except JournalSizeError as error:
        pipe.send(JournalSizeError(str(error)))
    except ReadError as error:
        pipe.send(ReadError(str(error)))
    except BrokenPipeError:
        pass
