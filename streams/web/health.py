"""Answers the requests of the view Health: what `weir status` says, for those who may see the whole cluster.

The command runs in a process of its own, which is ended when its time is over. Its answer, or why there is none, is
kept for a moment, so that many people who look cost as much as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.routing import Route

from streams.cli.runs import Bounds
from streams.web.answers import Answers, RefusedError
from streams.web.commands import CannotSayError, answer_of
from streams.web.viewers import EVERYWHERE

WINDOWS: Final = ("15m", "1h", "6h", "24h")
"""The windows that a person may choose: one answer is kept for each."""
_KEPT_S: Final = 5.0
_BOUNDS: Final = Bounds(seconds=30.0, max_printed=16 << 20)
Json = dict[str, Any]


class Health:
    """The view Health."""

    def __init__(self, answers: Answers, cluster: str) -> None:
        """``cluster``: the only one that is shown; empty: all."""
        self._answers, self._cluster = answers, cluster
        self._asking = asyncio.Lock()
        self._kept: dict[str, tuple[float, Json | RefusedError]] = {}
        self.routes: Sequence[Route] = (answers.route("/api/health", self._health),)

    async def _health(self, request: Request) -> object:
        viewer = await self._answers.viewer(request)
        # What nodes did belongs to no namespace.
        if not await self._answers.decided(lambda: viewer.may_see(EVERYWHERE)):
            raise RefusedError(
                403,
                "Health is about the whole cluster. It takes the verb get on flows.kubeweir.io in all namespaces: "
                "kubectl create clusterrolebinding NAME --clusterrole=kubeweir-flows-viewer --serviceaccount=NS:NAME",
            )
        since = request.query_params.get("since", "1h")
        if since not in WINDOWS:
            raise RefusedError(400, f"since must be one of {', '.join(WINDOWS)}", "since")
        return await self._status(since)

    async def _status(self, since: str) -> Json:
        """Return the status of a window, at most some seconds old. Raises RefusedError."""
        clock = asyncio.get_running_loop().time
        async with self._asking:
            # An answer may have megabytes, so that old ones are dropped.
            self._kept = {one: kept for one, kept in self._kept.items() if clock() - kept[0] < _KEPT_S}
            if since not in self._kept:
                outcome = await self._outcome(since)
                self._kept[since] = clock(), outcome
            found = self._kept[since][1]
        if isinstance(found, RefusedError):
            raise RefusedError(found.status, str(found))
        return found

    async def _outcome(self, since: str) -> Json | RefusedError:
        """Return the status, or why there is none: it is kept, or each who waits would wait for another failure."""
        try:
            return await self._ask(since)
        except RefusedError as error:
            return error

    async def _ask(self, since: str) -> Json:
        cluster = ("--cluster", self._cluster) if self._cluster else ()
        try:
            found = await answer_of(("status", "-o", "json", "--since", since, *cluster), _BOUNDS)
        except CannotSayError as error:
            raise RefusedError(503, str(error)) from error
        return found if isinstance(found, dict) else {}
