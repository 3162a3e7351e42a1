"""Answers the requests of the view Live: records of the past, why one was decided so, and new ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from enrich.runtime.token_gate import UNAUTHENTICATED
from streams.metrics.web import WebMetrics
from streams.web.answers import Answers, RefusedError
from streams.web.feed import FlowFeed
from streams.web.outbox import Outbox
from streams.web.past import PastQuestions
from streams.web.query import QueryError, read_query
from streams.web.viewers import Viewer
from streams.web.watcher import Watcher, event

MAX_VIEWS: Final = 64
"""Live views at once."""
VIEWS_EACH: Final = 16
"""Those of one person: three windows of a browser, which opens six connections to a server."""
_HEARTBEAT_S: Final = 10.0
_SAID: Final = {
    "slow": "This browser took records slower than they came.",
    "stopping": "The server is stopping.",
    "expired": "The token has expired, or the proxy that has signed you in is not believed any more.",
}


class FlowsView:
    """The view Live."""

    def __init__(self, answers: Answers, feed: FlowFeed, past: PastQuestions, metrics: WebMetrics) -> None:
        self._answers, self._feed, self._past, self._metrics = answers, feed, past, metrics
        self._outboxes: dict[Outbox, str] = {}
        """Whose each live view is."""
        self.routes: Sequence[Route] = (
            answers.route("/api/flows", self._flows),
            answers.route("/api/explain", self._explain),
            Route("/api/live", self._follow),
        )

    def end(self) -> None:
        """Let all live views end."""
        for outbox in tuple(self._outboxes):
            outbox.end("stopping")

    async def _flows(self, request: Request) -> object:
        viewer = await self._answers.viewer(request)
        query = read_query(request.query_params.multi_items())
        return await self._answers.ask(request, viewer, partial(self._past.flows, query, viewer))

    async def _explain(self, request: Request) -> object:
        viewer = await self._answers.viewer(request)
        record_id, at = request.query_params.get("id", ""), request.query_params.get("at", "")
        if not record_id or not at or len(record_id) > 100 or len(at) > 40:
            raise RefusedError(400, "A record is named by its id and its time.")
        return await self._answers.ask(request, viewer, partial(self._past.explanation, record_id, at, viewer))

    async def _follow(self, request: Request) -> Response:
        try:
            viewer = await self._answers.viewer(request)
            query = read_query(request.query_params.multi_items())
        except (RefusedError, QueryError) as error:
            return self._answers.refused(error)
        if len(self._outboxes) >= MAX_VIEWS:
            why = f"{MAX_VIEWS} live views are open, as many as may be: close one."
            return self._answers.refused(RefusedError(503, why))
        own = list(self._outboxes.values()).count(viewer.asker)
        if viewer.asker and own >= VIEWS_EACH:
            why = f"{own} live views of yours are open, as many as may be: close one."
            return self._answers.refused(RefusedError(503, why))
        outbox = Outbox(asyncio.get_running_loop())
        watcher = Watcher(query.choice, viewer, outbox.put)
        return StreamingResponse(self._stream(outbox, watcher, viewer), media_type="text/event-stream")

    async def _stream(self, outbox: Outbox, watcher: Watcher, viewer: Viewer) -> AsyncIterator[bytes]:
        # The view counts from here on, and not from the request on: if the browser is gone by now, this generator never
        # starts, and then its "finally" never runs either.
        self._outboxes[outbox] = viewer.asker
        self._metrics.views.set(len(self._outboxes))
        try:
            self._feed.join(watcher, outbox.put)
            while (message := await outbox.take(_HEARTBEAT_S)) is not None:
                yield message or b": still here\n\n"
                if viewer.status() == UNAUTHENTICATED:
                    outbox.end("expired")
            if outbox.ended == "slow":
                self._metrics.cut.inc()
            yield event("cut", orjson.dumps({"why": _SAID.get(outbox.ended, "")}))
        finally:
            self._feed.leave(watcher)
            self._outboxes.pop(outbox, None)
            self._metrics.views.set(len(self._outboxes))
