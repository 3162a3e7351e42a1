"""One run: traffic, changes of policy, pods that come and go and faults side by side, and then the account."""

from __future__ import annotations

import itertools
import json
import pprint
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tests.custody.account import Account
from tests.custody.desk import Desk, logged_ns
from tests.custody.epochs import epoch_differences
from tests.custody.evidence import Evidence
from tests.custody.ground import LASTING, SIZES, Ground
from tests.custody.outcome import read_flows, read_policies, status_problems
from tests.custody.report import Report
from tests.custody.script import NODES, Span
from tests.custody.servers import Servers
from tests.custody.traffic import Service, Traffic
from tests.kafka.site import until

_PROGRESS_S: Final = 10.0
_SILENCE_NS: Final = 2_000_000_000
"""When nothing was captured for so long, nothing is under way any more: longer than TCP waits to send again."""
_QUIET_NS: Final = 900_000_000
"""The same for one pod, whose servers have ended their connections."""
_PATIENCE_S: Final = 600.0
_ADOPTION_NS: Final = 60_000_000_000
"""For so long the probe looks at UDP of interfaces that are older than it."""
_REUSED: Final = 3
_FOUND: Final = "another generation of maps is in force"
_REMOVED: Final = "the generation before was read to its end"
"""What a probe logs before it moves the first interface to its own generation, and after the last one."""


def judge(evidence: Evidence) -> Report:
    """Make the account of a run."""
    report = Account(evidence.script, evidence.packets, evidence.records).report()
    report.epochs = len(evidence.policies)
    report.differences += epoch_differences(evidence.script, evidence.policies)
    return report


@dataclass(frozen=True)
class Pace:
    """How fast things follow each other, in seconds: at least and at most."""

    flips: tuple[float, float] = (0.5, 4.0)
    lives: tuple[float, float] = (2.0, 12.0)
    faults: tuple[float, float] = (8.0, 25.0)
    threads: int = 16


@dataclass
class Run:
    """One run on a ground that is ready."""

    ground: Ground
    seed: int
    pace: Pace
    say: Callable[[str], None]
    faults: int = 0
    lives: int = 0
    """How many pods have come and gone."""
    stopped: bool = False
    problem: Exception | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _started: float = field(default_factory=time.monotonic)
    _sizes: dict[str, int] = field(default_factory=lambda: {name: at for at, name in enumerate(NODES)})
    """Which of SIZES each node's probe has; the ground has started them so."""

    def run(self, seconds: float) -> Report:
        """Do everything for some time, and return the account. Ctrl-C ends it early; the account is still made."""
        self._desk, self._servers, self._service = Desk(self.ground, self.seed), Servers(), Service()
        try:
            for name in ("world", *LASTING):
                self._servers.add(name, self.ground.spaces[name])
            for name in (*NODES, "world", *(name for name in LASTING if not name.startswith("marker"))):
                self._service.enter(self.ground.host(name))
            self._traffic = Traffic(self.ground, self._service, self.seed, self.pace.threads)
            lanes = [self._lane(self._flip), self._lane(self._break)]
            lanes += [self._lane(partial(self._live, number)) for number in range(1, 1 + _REUSED)]
            try:
                self._wait(seconds)
            except KeyboardInterrupt:
                self.stopped = True
                self.say("stopped: waiting for what is under way; Ctrl-C again ends without an account")
            finally:
                self._over.set()
                for lane in lanes:
                    lane.join()
                self._traffic.stop()
        finally:
            self._servers.close()
        return self._account()

    def _lane(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self.problem = self.problem or error  # what ends other lanes may follow from it
                raise

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        report = time.monotonic() + _PROGRESS_S
        while time.monotonic() < end and not (self.problem or self._traffic.problem):
            if time.monotonic() >= report:
                report += _PROGRESS_S
                self.say(f"{time.monotonic() - self._started:6.1f} s {self._counts()}")
            time.sleep(0.1)

    def _counts(self) -> str:
        packets, attempts = len(self.ground.captures.packets), self._traffic.made.total()
        return (f"{packets} packets of {attempts} attempts, {self._desk.flips} changes of policy, {self.lives} pods "
                f"came and went, {self.faults} faults")  # fmt: skip

    # --- lanes

    def _flip(self) -> None:
        chance = random.Random(f"{self.seed}/flips")  # noqa: S311 - a seed repeats it
        while not self._over.wait(chance.uniform(*self.pace.flips)):
            # A change while a probe is away is on its way for seconds, with all that is sent meanwhile.
            is_away = any(node.away.is_set() for node in self.ground.nodes.values())
            if not is_away or chance.random() < 0.3:
                self._desk.flip()

    def _live(self, number: int) -> None:
        """Let pods come and go, one after the other at one address of each family, on either node."""
        chance, ground = random.Random(f"{self.seed}/pods/{number}"), self.ground  # noqa: S311 - as above
        for life in itertools.count(1):
            name = f"churn-{number}-{life}"
            ground.announce(name, "churn", chance.choice(NODES))
            ground.connect(name, f"10.244.7.{number}", f"fd44::7:{number}")
            ground.publish(name)
            until(partial(self._attached, name), f"{name} under policy", _PATIENCE_S)
            # What was installed for the pod before its interface was attached is in force with the next installation.
            self._desk.confirm()
            self._servers.add(name, ground.spaces[name])
            self._service.enter(ground.host(name))
            self._over.wait(chance.uniform(*self.pace.lives))
            self._service.leave(ground.host(name))
            self._servers.remove(name)
            self._servers.end_from(ground.host(name).addresses)
            if self._over.is_set():
                return
            # What is sent to an interface that is gone arrives nowhere, and no policy has denied it.
            # A server that a busy machine has kept waiting answers late, so silence alone does not prove that nothing
            # is under way.
            for _ in range(2):
                until(partial(ground.captures.is_silent, _QUIET_NS, name), f"silence at {name}", _PATIENCE_S)
                self._servers.catch_up()
            ground.disconnect(name)
            time.sleep(chance.uniform(0, 0.3))
            ground.delete(name)
            self.lives += 1
            time.sleep(chance.uniform(0, 0.3))

    def _attached(self, name: str) -> bool | None:
        """Return whether a probe has attached a pod, and note whether it had to adopt what the pod had begun."""
        host = self.ground.host(name)
        for probe in self.ground.nodes[host.node].probes[-2:]:
            if any(line["pod"].endswith(f"/{name}") for line in probe.lines("pod attached")):
                started = probe.lines("started")
                if not started or host.begun < logged_ns(started[0]):
                    host.adopting_until = time.time_ns() + _ADOPTION_NS
                return True
        return None

    def _break(self) -> None:
        chance = random.Random(f"{self.seed}/faults")  # noqa: S311 - as above
        for fault in _in_turn(chance):
            if self._over.wait(chance.uniform(*self.pace.faults)):
                return
            self.faults += 1
            node = self.ground.nodes[chance.choice(NODES)]
            where = f" on {node.name}" if "probe" in fault else ""
            self.say(f"{time.monotonic() - self._started:6.1f} s {fault}{where}")
            if fault == "Kafka restarts":
                self.ground.broker.stop()
                self._over.wait(chance.uniform(0, 3))
                self.ground.start_broker().result()
                continue
            if fault == "the worker is killed":
                self.ground.worker.process.kill()
                self.ground.worker.process.wait(_PATIENCE_S)
                self.ground.start_worker()
                continue
            how = signal.SIGTERM if fault.endswith("is upgraded") else signal.SIGKILL
            if fault.endswith("generation") or how == signal.SIGTERM:
                self._sizes[node.name] = (self._sizes[node.name] + 1) % len(SIZES)
            node.away.set()
            since = time.time_ns()
            try:
                node.probe.process.send_signal(how)
                node.probe.process.wait(_PATIENCE_S)
                self.ground.start_probe(node.name, **SIZES[self._sizes[node.name]])
                node.probe.wait_for("started", _PATIENCE_S)
            finally:
                node.away.clear()
                self.ground.script.absences.append(Span(node.name, since, time.time_ns()))

    # --- the end

    def _account(self) -> Report:
        if error := self.problem or self._traffic.problem:
            raise error
        captures = self.ground.captures
        until(lambda: captures.is_silent(_SILENCE_NS), "silence on the wire", _PATIENCE_S)
        codes = []
        for node in self.ground.nodes.values():
            is_ready = partial(node.probe.get, "/readyz")
            until(lambda ask=is_ready: ask()[0] == 200, f"a probe on {node.name} that is ready", _PATIENCE_S)  # type: ignore[misc]
            codes.append(node.probe.stop())
            # When it is stopped, a probe waits for Kafka, which may have just started, for some seconds only. What is
            # left in its spool then, the next one sends.
            while not codes[-1] and not node.probe.lines("stopped")[-1]["flushed"]:
                self.ground.start_probe(node.name, **SIZES[self._sizes[node.name]])
                node.probe.wait_for("started", _PATIENCE_S)
                codes.append(node.probe.stop())
        captures.close()
        self._note_takeovers()
        batches = self.ground.broker.batches(f"{self.ground.site.prefix}.verdicts.raw")
        (records, missing), policies = read_flows(self.ground.site, batches), read_policies(self.ground.site, batches)
        self.say(f"{time.monotonic() - self._started:6.1f} s {self._counts()}; comparing with {len(records)} records")
        evidence = Evidence(self.ground.script, captures.packets, records, policies)
        evidence.save(self.ground.folder / "evidence.pickle")  # before the account, which may fail
        report = judge(evidence)
        report.differences += missing + status_problems(self.ground.site)
        if any(codes) or captures.dropped:
            report.differences.append(f"the probes ended with {codes}; {captures.dropped} packets were not captured")
        if report.differences:
            kept = {
                "differences.txt": "\n".join(report.differences), "records.json": json.dumps(records),
                "script.txt": pprint.pformat(self.ground.script, width=200),
            }  # fmt: skip
            for name, text in kept.items():
                (self.ground.folder / name).write_text(text)
        return report

    def _note_takeovers(self) -> None:
        """Note when interfaces were moved from one generation of maps to another."""
        script = self.ground.script
        for name, probe in ((node.name, probe) for node in self.ground.nodes.values() for probe in node.probes):
            begun, ended = (probe.lines(event) for event in (_FOUND, _REMOVED))
            if begun:
                last = logged_ns(ended[-1] if ended else probe.lines("")[-1])
                script.takeovers.append(taken := Span(name, logged_ns(begun[0]), last))
                # Connections are copied, and interfaces moved, as soon as policy is known: before "started" is logged.
                if "CONNECTIONS" in begun[0]["sizes"]:
                    script.moves.append(taken)


def _in_turn(chance: random.Random) -> Iterator[str]:
    """Yield faults. Each comes once before one comes again."""
    every = ("the probe is killed", "Kafka restarts", "the probe is killed, the next has another generation",
             "the probe is upgraded", "the worker is killed")  # fmt: skip
    while True:
        yield from chance.sample(every, len(every))
