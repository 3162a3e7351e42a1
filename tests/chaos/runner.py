"""Makes faults at random in two lanes, says how the account stands meanwhile, and sums it up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from streams.main import ROLES
from tests.chaos.faults import FAULTS, Fault, Lane
from tests.chaos.ground import Ground

LANES: Final[tuple[Lane, ...]] = ("brokers", "services")
_PROGRESS_S: Final = 10.0
_SETTLE_S: Final = 240.0
"""So long after the last fault everything may take to arrive."""


@dataclass(frozen=True)
class Pace:
    """How long a fault lasts, and how long nothing happens after it, in seconds: at least and at most."""

    lasts: tuple[float, float] = (3.0, 30.0)
    pause: tuple[float, float] = (2.0, 15.0)


@dataclass
class Run:
    """One run on a ground that is ready."""

    ground: Ground
    seed: int
    pace: Pace
    say: Callable[[str], None]
    made: int = 0
    """How many faults there were."""
    failed: list[str] = field(default_factory=list)
    """Faults that could not be made or mended."""
    stopped: bool = False
    """Whether Ctrl-C has ended the faults early."""
    _over: threading.Event = field(default_factory=threading.Event)
    _started: float = field(default_factory=time.monotonic)

    def run(self, seconds: float) -> bool:
        """Make faults for some time, wait until all has arrived, and say the account. Return whether it is right.

        Ctrl-C ends the faults early; the account is still made.
        """
        self._wait(_SETTLE_S, self._has_begun)
        lanes = [threading.Thread(target=self._lane, args=(lane,), name=lane) for lane in LANES]
        for thread in lanes:
            thread.start()
        try:
            self._wait(seconds, self._is_broken)
        except KeyboardInterrupt:
            self.stopped = True
            self.say(f"{self._time()} stopped: mending the last faults for the account; Ctrl-C again ends without it")
        finally:
            self._over.set()
            for thread in lanes:
                thread.join()
        self.ground.fleet.stop()
        self.say("no more faults and no more verdicts: waiting for what is under way")
        self._wait(_SETTLE_S, self._has_settled)
        self.ground.account.stop()
        return self._sum_up()

    def _wait(self, seconds: float, done: Callable[[], bool]) -> None:
        """Wait, and say every few seconds how the account stands."""
        end = next_report = time.monotonic()
        end += seconds
        while not done() and time.monotonic() < end:
            if time.monotonic() >= next_report:
                self._report()
                next_report += _PROGRESS_S
            time.sleep(0.2)

    def _report(self) -> None:
        account = self.ground.account
        arrived = ", ".join(f"{name} {seen.distinct}" for name, seen in account.places().items())
        self.say(
            f"{self._time()} {self.made} faults, {self.ground.fleet.published} verdicts: {arrived}, "
            f"alerts {len(account.alerts)}; {account.wrong_names} wrong names, {account.nameless} without a name, "
            f"{account.false_health_s:.0f} s of false health"
        )

    def _time(self) -> str:
        return f"{time.monotonic() - self._started:6.1f} s"

    # --- faults

    def _lane(self, lane: Lane) -> None:
        for one, chance in sequence(self.seed, lane):
            lasts, pause = chance.uniform(*self.pace.lasts), chance.uniform(*self.pace.pause)
            if self._over.is_set():
                return
            try:
                self._make(one, chance, lasts)
            except Exception as error:
                self.failed.append(f"{one.name}: {error!r}")
                self.say(f"{self._time()} {one.name} FAILED: {error!r}")
                return
            self._over.wait(pause)

    def _make(self, one: Fault, chance: random.Random, lasts: float) -> None:
        making = one.make(self.ground, chance)
        text = next(making)
        self.say(f"{self._time()} {text}, for {lasts:.0f} s")
        self.made += 1
        self._over.wait(lasts)
        for _ in making:
            raise AssertionError(f"{one.name} yields once")
        if one.lane == "brokers":
            self.ground.brokers.wait_until_complete()

    # --- the end

    def _has_begun(self) -> bool:
        """Return whether records are everywhere; else the first faults would meet services that have not started."""
        return all(tail.seen.distinct for tail in self.ground.account.tails.values())

    def _is_broken(self) -> bool:
        """Return whether the run itself cannot go on."""
        return bool(self.failed or self.ground.fleet.problem or self.ground.account.broken)

    def _has_settled(self) -> bool:
        """Return whether everything has arrived and every role is ready."""
        account = self.ground.account
        if self._is_broken():
            return True
        if account.missing() or not self.ground.hostile.expected <= account.dead:
            return False
        return all(map(self.ground.workers.ready, ROLES))

    def _sum_up(self) -> bool:
        account, published = self.ground.account, self.ground.account.published()
        oddities = self._oddities()
        for problem in (*self.failed, *account.problems, *oddities):
            self.say(f"FAILED: {problem}")
        ids = {one for seen in account.places().values() for one in seen.missing(published)[:1000]}
        missing = account.missing()
        if missing:
            self.say(f"FAILED: missing {missing}, for example {sorted(ids)[:5]}")
        lost = sum(missing.values())
        right = not (self.failed or oddities or lost or account.wrong_names or account.false_losses)
        verdicts, false_s = sum(published.values()), account.false_health_s
        self.say(f"{self.made} faults, {verdicts} verdicts, {lost} lost, {account.wrong_names} wrong names, "
                 f"{false_s:.0f} s of false health")  # fmt: skip
        return right and verdicts > 0 and self.made > 0 and not false_s

    def _oddities(self) -> list[str]:
        """Return what is wrong and neither lost, nor wrongly named, nor a false word about health."""
        account, published = self.ground.account, self.ground.account.published()
        found = [f"{count} verdicts in {name} that were never published" for name, seen in account.places().items()
                 if (count := seen.invented(published))]  # fmt: skip
        if unsent := self.ground.hostile.expected - account.dead:
            found.append(f"{len(unsent)} hostile records have not become dead letters, for example {min(unsent)}")
        if twice := [name for name, count in account.alert_ids.items() if count > 1]:
            found.append(f"{len(twice)} alerts are on their topic twice, for example {twice[0]}")
        if untrue := account.alerts.keys() - account.expected_alerts():
            found.append(f"{len(untrue)} alerts of ports with too few denies, for example {min(untrue)}")
        for name, error in {"probes": self.ground.fleet.problem, "account": account.broken}.items():
            if error is not None:
                found.append(f"the {name} ended by {error!r}")
        return [*found, *(text for truth in account.truths.values() for text in truth.examples)]


def sequence(seed: int, lane: Lane) -> Iterator[tuple[Fault, random.Random]]:
    """Yield the faults of a lane, each with random numbers of its own. Each comes once before one comes again."""
    chance = random.Random(f"{seed}/{lane}")  # noqa: S311 - a seed repeats it
    every = [one for one in FAULTS if one.lane == lane]
    while True:
        for one in chance.sample(every, len(every)):
            yield one, random.Random(chance.random())  # noqa: S311 - as above
