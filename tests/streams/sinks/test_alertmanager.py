"""Alerts to an Alertmanager that refuses some: a destination of ours, with Alertmanager's own check of times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
import pytest

from streams.sinks.alertmanager import AlertmanagerSink
from streams.sinks.sink import RefusedError, SinkError
from streams.timestamps import rfc3339

T0 = 1_800_000_000.0


class Alertmanager:
    """Takes the valid alerts of a request, and refuses the request if one is not valid."""

    def __init__(self) -> None:
        self.latest: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self.away = False
        self.limit = 1000

    def post(self, alerts: Sequence[dict[str, Any]]) -> None:
        self.requests += 1
        if self.away:
            raise SinkError("503")
        if len(alerts) > self.limit:
            raise RefusedError("413")
        good = [one for one in alerts if one["startsAt"] <= one["endsAt"] and one["labels"]]
        self.latest |= {one["labels"]["name"]: one for one in good}
        if len(good) < len(alerts):
            raise RefusedError("400 start time must be before end time")

    def close(self) -> None:
        pass

    def firing(self, now: float) -> set[str]:
        return {name for name, one in self.latest.items() if datetime.fromisoformat(one["endsAt"]).timestamp() > now}


def alert(name: str, *, starts: float = T0, ends: float | None = None, **labels: str) -> dict[str, Any]:
    made = {"fingerprint": name, "status": "firing", "labels": {"name": name, **labels}, "annotations": {},
            "startsAt": rfc3339(starts)}  # fmt: skip
    return made if ends is None else {**made, "status": "resolved", "endsAt": rfc3339(ends)}


class World:
    """A sink with a clock that the test turns."""

    def __init__(self) -> None:
        self.far, self.now = Alertmanager(), T0
        self.sink = AlertmanagerSink(self.far, 60, lambda: self.now)  # type: ignore[arg-type]
        self.sink.own(list)

    def write(self, *records: dict[str, Any]) -> None:
        self.sink.write([orjson.dumps(record) for record in records])

    def hour(self) -> None:
        for _ in range(60):
            self.now += 60
            self.write()


@pytest.mark.parametrize("ahead", [40, 3600])
def test_an_alert_that_was_fired_by_a_clock_that_was_ahead_is_resolved(ahead: int) -> None:
    world = World()
    world.write(alert("a", starts=T0 + ahead))
    assert world.far.firing(world.now) == {"a"}
    world.now += 20
    world.write(alert("a", starts=T0 + ahead, ends=world.now))
    assert world.far.firing(world.now) == set()
    world.hour()
    assert world.far.firing(world.now) == set()


def test_an_alert_that_is_refused_is_not_repeated_and_ends_by_itself() -> None:
    world = World()
    world.write(alert("a"), alert("b"))
    broken = {**alert("a", ends=T0 + 10), "labels": {}}
    with pytest.raises(RefusedError):
        world.write(broken)
    world.hour()
    assert world.far.firing(world.now) == {"b"}


def test_one_alert_that_is_refused_later_does_not_end_the_others() -> None:
    world = World()
    world.sink.own(lambda: [alert(f"a{number}") for number in range(600)] + [{**alert("bad"), "labels": {}}])
    world.write()
    requests = world.far.requests
    world.hour()
    assert len(world.far.firing(world.now)) == 600
    assert world.far.requests == requests + 60 * 3, "it is looked for once"


def test_requests_that_are_too_large_are_split() -> None:
    world = World()
    world.far.limit = 10
    world.sink.own(lambda: [alert(f"a{number}") for number in range(100)])
    world.write()
    assert len(world.far.firing(world.now)) == 100


def test_new_alerts_are_not_sent_again_because_the_old_ones_cannot_be() -> None:
    world = World()
    world.sink.own(lambda: [alert("old")])
    world.write(alert("new"))
    world.now += 60
    world.far.post = _fails_after(world.far, 1)  # type: ignore[method-assign]
    with pytest.raises(SinkError) as caught:
        world.write(alert("newer"))
    assert caught.value.done == 1


def _fails_after(far: Alertmanager, good: int) -> Any:
    post, left = far.post, iter(range(good))

    def fails(alerts: Sequence[dict[str, Any]]) -> None:
        if next(left, None) is None:
            raise SinkError("503")
        post(alerts)

    return fails


def test_alerts_that_cannot_be_read_are_read_again_and_nothing_else_ends() -> None:
    world = World()
    errors = iter([SinkError("no Kafka")])

    def load() -> list[dict[str, Any]]:
        for error in errors:
            raise error
        return [alert("a")]

    world.sink.own(load)
    with pytest.raises(SinkError):
        world.write()
    world.write()
    assert world.far.firing(world.now) == {"a"}
