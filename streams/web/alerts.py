"""Answers which alerts fire, in the view Health, to each viewer those that they may see.

An alert is as good as the records that it counts. Each of them has an end in every place that the alert names, so that
somebody who may see one namespace of each place may see all of its records. An alert that names no namespace, such as
one about lost verdicts, takes the right for all namespaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from enrich.runtime.work_thread import start_work
from streams.kafka.connection import ReadError
from streams.web.answers import Answers
from streams.web.firing import Firing, FiringAlerts, Named
from streams.web.viewers import Viewer, sees_ends

MAX_SHOWN: Final = 200
_KEPT_S: Final = 5.0
_DECIDE_S: Final = 5.0
_AT_ONCE: Final = 40
"""Questions about rights that are looked at together, more than the gate asks at once."""
_SEVERITIES: Final = ("critical", "warning", "info")
"""The most urgent first."""


def sees_alert(viewer: Viewer, named: Named) -> bool | None:
    """Return whether a viewer may see an alert; None while that is asked."""
    answers = [sees_ends(viewer, named.alert.cluster, *place) for place in named.places or ((),)]
    if False in answers:
        return False
    return None if None in answers else True


class Alerts:
    """What fires, as part of the view Health."""

    def __init__(self, answers: Answers, firing: FiringAlerts) -> None:
        self._answers, self._firing = answers, firing
        self._asking = asyncio.Lock()
        self._kept: tuple[float, Firing | ReadError] | None = None
        self.routes: Final[Sequence[Route]] = (answers.route("/api/alerts", self._alerts),)

    async def _alerts(self, request: Request) -> dict[str, Any]:
        viewer = await self._answers.viewer(request)
        found = await self._found()
        seen, undecided = await _seen(viewer, found.alerts)
        seen.sort(key=lambda one: one.alert.started, reverse=True)
        seen.sort(key=lambda one: _urgency(one.alert.severity))
        return {
            "alerts": [msgspec.to_builtins(one.alert) for one in seen[:MAX_SHOWN]],
            "left_out": max(0, len(seen) - MAX_SHOWN),
            "withheld": undecided,
            "unread": found.left_out,
            "role": found.role,
        }

    async def _found(self) -> Firing:
        """Return what fires, at most some seconds old, or raise why that is not known: both are kept, so that many
        people who look cost as much as one. Raises ReadError."""
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if self._kept is None or clock() - self._kept[0] >= _KEPT_S:
                found: Firing | ReadError
                try:
                    found = await asyncio.wrap_future(start_work(self._firing.read, "web-alerts"))
                except ReadError as error:
                    found = error
                self._kept = clock(), found
            found = self._kept[1]
        if isinstance(found, ReadError):
            raise ReadError(str(found))
        return found


async def _seen(viewer: Viewer, alerts: Sequence[Named]) -> tuple[list[Named], int]:
    """Return the alerts that a viewer may see, and of how many it could not be found out in time."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _DECIDE_S
    alike: dict[Hashable, list[Named]] = {}
    for one in alerts:
        alike.setdefault((one.alert.cluster, one.places), []).append(one)
    seen: list[Named] = []
    waiting = list(alike.values())
    while waiting:
        answers = [(some, sees_alert(viewer, some[0])) for some in waiting[:_AT_ONCE]]
        seen += [one for some, answer in answers if answer for one in some]
        undecided = [some for some, answer in answers if answer is None]
        waiting = [*waiting[_AT_ONCE:], *undecided]
        if undecided and clock() >= deadline:
            break
        # The gate's threads ask the API server, and cannot call back.
        await asyncio.sleep(0.02 if undecided else 0)
    return seen, sum(map(len, waiting))


def _urgency(severity: str) -> int:
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)
