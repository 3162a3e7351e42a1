"""How far a role is behind, measured at the broker: by end and committed offsets, not by what a client believes.

Theory of operation. A client whose brokers have moved, or whose topic was made again, may wait for ever and find
nothing wrong. So a thread with a client of its own asks, every few seconds, for each group of the role:

1. Where does each partition end, and what is committed? If 130 is the end and 100 is committed, 30 records wait.
2. Since when? The first look that saw an end beyond 100 says so (:mod:`enrich.runtime.waiting_time`).
3. Is there a record at all from 100 on? A transaction's end takes an offset too, and compaction removes records. So
   when nothing has got done for half of ``WEIR_STALL``, the next record is read, and again after each ``WEIR_STALL``:
   retention may remove it.
4. Did anything of the group's own partitions get done since the last look? If not for ``WEIR_STALL`` seconds, the role
   is not ready; after 5 times that, its process ends, and is restarted with new clients (:mod:`enrich.runtime.stall`).
   So it is if a topic is gone, because the role makes its topics when it starts; and at once if a topic was made
   again (:mod:`streams.kafka.topic_ids`).
5. Does each thread that works by transactions still take its turns? One whose call of the client never returns, or that
   fails at each attempt, has left its group, or has nothing to read, so that 1 to 4 find nothing wrong. It counts as
   stalled like a group, after 6 seconds at least, because a healthy one may need so long to begin again. The records
   that it reads when it begins count as turns: that may take minutes, and a restart would only begin it again.

A transaction that does not end holds records back, or a group's offsets. What is behind it waits, so it counts as lag;
but it is not a stall, because no new client gets it either. /readyz names the transaction
(:mod:`streams.kafka.open_transactions`).

If Kafka does not answer for ``WEIR_STALL`` seconds, the role is not ready either. It is not restarted then, nor because
of a group for which a missing right or another cause is known: a restart would change neither. Each group is measured
and recovers by itself, so that one that Kafka refuses for ever leaves the others as they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from enrich.diagnosis.rights import Cause
from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.renewed_client import RenewedClient
from enrich.runtime.stall import Stall
from streams.kafka.committed import CommittedOffsets
from streams.kafka.connection import Connection, admin_client
from streams.kafka.consumer_groups import GroupCoordinators
from streams.kafka.errors import error_text
from streams.kafka.followed import Followed, WatchedThread
from streams.kafka.measurement import Call, Measurement, Progress
from streams.kafka.open_transactions import OpenTransactions, Suspect
from streams.kafka.topic_ids import rewind

log = structlog.get_logger("kubeweir.streams")

_MEASURE_EVERY_S: Final = 5.0
_TIMEOUT_S: Final = 5.0
_THREAD_STALL_S: Final = 6.0
"""A thread is stalled after this time at least. 5 times that is how long a healthy one may take to join its group and
to learn what is committed there: Kafka ends a transaction that somebody has left open after up to 20 s."""
_REWIND_S: Final = 8.0
"""A supervisor kills a role soon after its WEIR_STOP_TIMEOUT, if somebody stops it meanwhile."""


class LagMonitor:
    """Measures the groups of one role."""

    def __init__(
        self, connection: Connection, stall_s: float, metrics: Progress, causes: Callable[[], Sequence[Cause]] = tuple
    ) -> None:
        """``causes`` returns why Kafka refuses the role, as far as is known: no restart changes that."""
        self._connection, self._stall_s, self._metrics, self._causes = connection, stall_s, metrics, causes
        self._every_s = min(_MEASURE_EVERY_S, stall_s / 5)
        self._followed: dict[str, Followed] = {}
        self._watched: list[WatchedThread] = []
        self._lock = threading.Lock()
        self._admin = RenewedClient(lambda: admin_client(connection))
        self._committed, self._groups = CommittedOffsets(connection, _TIMEOUT_S), GroupCoordinators(connection)
        self._open = OpenTransactions(connection, stall_s, self._committed)
        self._measurement = Measurement(connection, stall_s, metrics, self._groups, self._open)
        self._answered_at = time.monotonic()
        self._cause = ""
        self._failed: StopServiceError | None = None
        self._remade: dict[str, Followed] = {}
        self._end: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def follow(self, followed: Followed) -> None:
        """Measure a group from now on."""
        followed.missing.limit_s = followed.silent.limit_s = self._stall_s
        with self._lock:
            self._followed[followed.group] = followed

    def forget(self, group: str) -> None:
        """Measure a group no longer."""
        with self._lock:
            self._followed.pop(group, None)
        self._metrics.forget(group)

    def watch(self, watched: WatchedThread) -> None:
        """Watch from now on whether a thread takes its turns. Call it before :meth:`start`."""
        watched.stall.limit_s = max(self._stall_s, _THREAD_STALL_S)
        self._watched.append(watched)

    def suspect(self, suspect: Suspect) -> None:
        """From now on, look whether a transaction that has not ended is why it fails. Call it before :meth:`start`."""
        self._open.suspects.append(suspect)

    def start(self, end: Callable[[], None]) -> None:
        """Start to measure. ``end`` is called when the process is to end; then :meth:`check` says why."""
        self._end = end
        self._answered_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop measuring, and rewind the groups of topics that were made again. The role has left them by then."""
        self._stop.set()
        for followed in list(self._remade.values()):
            if followed.positions is None:
                rewind(self._connection, followed.group, followed.ids.remade, _REWIND_S)

    def note(self, call: Call) -> None:
        """Note that a call of the role's own clients has just worked. Any thread may call it."""
        self._metrics.note(call)

    def check(self) -> None:
        """Raise StopServiceError if the process ends because it has made no progress for long, or because a topic was
        made again."""
        if self._failed is not None:
            raise self._failed

    def blocked(self, *, optional: bool = False) -> str | None:
        """Return which transactions have not ended for so long that the role waits for them, in words. ``optional``:
        for which only something waits without which it does its work."""
        return "; ".join(self._open.problems(optional=optional)) or None

    def with_cause(self, problem: str | None) -> str | None:
        """Return the transactions for which the role waits, which may cause a problem, and then the problem."""
        return "; ".join(filter(None, (self.blocked(), problem))) or None

    def problem(self) -> str | None:
        """Return what stalls, in words; None if nothing does."""
        silent_s = time.monotonic() - self._answered_at
        if silent_s >= self._stall_s:
            servers = self._connection["bootstrap.servers"]
            return f"Kafka has not answered for {silent_s:.0f} s at {servers}{self._cause}"
        with self._lock:
            found = [text for one in self._followed.values() if (text := self._stalled(one))]
        found += [text for watched in self._watched if (text := self._hanging(watched))]
        return "; ".join(found) or None

    def _stalled(self, followed: Followed) -> str | None:
        if followed.refused or (followed.unmeasured and followed.silent.is_stalled):
            return f"{followed.group} cannot be measured: {followed.refused or followed.unmeasured}"
        unseen = followed.ids.unseen
        if unseen and followed.missing.is_stalled:
            named = ", ".join(f"{topic}: {why}" for topic, why in unseen.items())
            return f"{followed.group} has had nothing to read for {followed.missing.seconds:.0f} s: {named}"
        late = [one for one in followed.read_here() if one.stall.is_stalled]
        if not late:
            return None
        seconds = max((one.stall.seconds for one in late), default=0.0)
        records = sum(one.records for one in late)
        return (
            f"{followed.group} has made no progress for {seconds:.0f} s: {records} records wait in {len(late)} "
            f"partitions of {', '.join(followed.topics)}, although Kafka answers"
        )

    @staticmethod
    def _hanging(watched: WatchedThread) -> str | None:
        if not watched.stall.is_stalled:
            return None
        return f"{watched.name} has not worked for {watched.stall.seconds:.0f} s, although Kafka answers"

    def _stalls(self, followed: Followed) -> list[Stall]:
        return [followed.missing, *(one.stall for one in followed.read_here())]

    def _postpone(self, followed: Sequence[Followed]) -> None:
        """Once Kafka is back, give the role's clients WEIR_STALL at least to find it by themselves."""
        for stall in (stall for one in followed for stall in self._stalls(one)):
            stall.postpone()

    def _postpone_all(self, followed: Sequence[Followed]) -> None:
        self._postpone(followed)
        for watched in self._watched:
            # A loop begins again when Kafka is back, which takes a while: its time counts from then on.
            watched.stall.update(waits=False, progressed=False)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every_s):
                self._look()
        except StopServiceError as error:  # too many consumers cannot be closed
            self._fail(str(error))

    def _look(self) -> None:
        with self._lock:
            followed = list(self._followed.values())
        self._look_at_threads()
        try:
            self._measure(followed)
        except (KafkaException, TimeoutError) as error:
            self._cause = f" ({error.args[0].str()})" if isinstance(error, KafkaException) else self._cause
            self._admin.unanswered()
            self._committed.unanswered()
            self._postpone_all(followed)
        else:
            self._admin.answered()

    def _measure(self, followed: Sequence[Followed]) -> None:
        admin = self._admin.get()
        self._committed.keep([*(one.group for one in followed), *(one.group for one in self._open.suspects)])
        self._open.begin()
        if not followed:
            admin.list_topics(timeout=_TIMEOUT_S)  # raises if Kafka does not answer
        for one in followed:
            self._try_to_measure(admin, one)
            if one.ids.remade:
                self._remade[one.group] = one
        # Not at the end: what follows takes a while if Kafka stops answering now, and raises nothing.
        self._note_answer()
        self._open.look_at_suspects(admin, self._note_answer)
        self._open.settle(admin)
        self._excuse_who_waits(followed)
        # Only now: the role may end at once, and then it rewinds the groups that are noted.
        for one in followed:
            self._recover(one)
        for watched in self._watched:
            if watched.stall.needs_new_clients(partial(self._may_recover, watched)):
                problem = self._hanging(watched) or f"{watched.name} has not worked"
                self._fail(f"{problem}; restarting, with new clients")

    def _note_answer(self) -> None:
        """Note that Kafka has just answered."""
        self._answered_at, self._cause = time.monotonic(), ""

    def _look_at_threads(self) -> None:
        for watched in self._watched:
            turns = watched.turns()
            watched.stall.update(waits=True, progressed=turns != watched.seen)
            watched.seen = turns

    def _excuse_who_waits(self, followed: Sequence[Followed]) -> None:
        """Let no time count in which a transaction keeps somebody from working. When it has ended, the role has its
        whole time to go on by itself."""
        stalls = [watched.stall for watched in self._watched if self._open.blocks(watched.waits_for)]
        blocked = [one for one in followed if self._open.blocks_group(one.group)]
        for stall in [*stalls, *(one.stall for each in blocked for one in each.read_here())]:
            stall.update(waits=False, progressed=False)

    def _try_to_measure(self, admin: AdminClient, followed: Followed) -> None:
        """Measure a group, or note why that fails. Raises KafkaException and TimeoutError if Kafka answers nothing."""
        try:
            if not followed.refused or not self._refusal(followed):
                self._measurement.measure(admin, followed)
                followed.unmeasured, followed.refused = "", ""
                followed.silent.update(waits=False, progressed=False)
        except (KafkaException, TimeoutError) as error:
            admin.list_topics(timeout=_TIMEOUT_S)  # if this is answered, other groups may be, too
            self._open.note_failure(followed.group)
            followed.unmeasured, followed.refused = error_text(error), self._refusal(followed)
            followed.silent.update(waits=True, progressed=False)
            self._metrics.forget(followed.group)  # how far it is behind is not known
            self._postpone([followed])

    def _refusal(self, followed: Followed) -> str:
        """Return why Kafka does not let the group be seen, empty if it does. Raises KafkaException and TimeoutError.

        librdkafka asks for the offsets of such a group until the call times out, and does not say why."""
        return self._groups.refusal(followed.group) if followed.positions is None else ""

    def _recover(self, followed: Followed) -> None:
        if followed.ids.remade:
            names = ", ".join(followed.ids.remade)
            self._fail(f"{names}: deleted and made again; restarting, to read it from its beginning")
            return
        # Kafka has just answered a client that is not the role's.
        if any(stall.needs_new_clients(partial(self._may_recover, followed)) for stall in self._stalls(followed)):
            problem = self._stalled(followed) or f"{followed.group} has made no progress"
            self._fail(f"{problem}; restarting, with new clients")

    def _may_recover(self, work: Followed | WatchedThread) -> bool:
        """Return whether no known cause keeps this group or thread from its work. One about none is about all."""
        with self._lock:
            everything: list[Followed | WatchedThread] = [*self._followed.values(), *self._watched]
        others = [one for one in everything if one is not work]
        return not any(
            work.depends_on(cause.about) or not any(one.depends_on(cause.about) for one in others)
            for cause in self._causes()
        )

    def _fail(self, text: str) -> None:
        """End the process, once: a second SIGTERM would kill it before it has rewound its groups."""
        if self._failed is None:
            log.error(text)
            self._failed = StopServiceError(text, Exit.UNEXPECTED)
            self._end()
