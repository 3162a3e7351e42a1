"""Answers the requests of the page: its files, the session, records of the past, and live views."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from enrich.runtime.token_gate import ALLOWED, UNAUTHENTICATED, TokenGate
from enrich.runtime.work_thread import start_work
from streams.kafka.connection import ReadError
from streams.metrics.web import WebMetrics
from streams.web.feed import FlowFeed
from streams.web.outbox import Outbox
from streams.web.past import IN_WINDOW, LAST, PastQuestions, UndecidedError
from streams.web.query import QueryError, read_query
from streams.web.viewers import Everybody, TokenViewer, Viewer
from streams.web.watcher import Watcher, event

STATIC: Final = Path(__file__).parent / "static"
MAX_VIEWS: Final = 64
"""Live views at once."""
_MAX_QUESTIONS: Final = 3
_MAX_WAITING: Final = 12
"""Questions about the past at once, and that wait for their turn."""
_HEARTBEAT_S: Final = 10.0
_TOKEN_S: Final = 5.0
_MAX_TOKEN: Final = 8192
_SAID: Final = {
    "slow": "This browser took records slower than they came.",
    "stopping": "The server is stopping.",
    "expired": "The token has expired.",
}
T = TypeVar("T")


class RefusedError(Exception):
    """A request is not answered. The message says why, to a person."""

    def __init__(self, status: int, text: str, field: str = "") -> None:
        super().__init__(text)
        self.status, self.field = status, field


class Page:
    """The application."""

    def __init__(
        self, feed: FlowFeed, past: PastQuestions, metrics: WebMetrics, gate: TokenGate | None, cluster: str
    ) -> None:
        """``gate``: None lets everybody see everything."""
        self._feed, self._past, self._metrics, self._gate, self._cluster = feed, past, metrics, gate, cluster
        self._asking, self._waiting = asyncio.Semaphore(_MAX_QUESTIONS), 0
        self._outboxes: set[Outbox] = set()
        self.app = Starlette(
            routes=[
                Route("/", self._index),
                Route("/healthz", self._healthz),
                Route("/api/session", self._answering(self._session)),
                Route("/api/flows", self._answering(self._flows)),
                Route("/api/explain", self._answering(self._explain)),
                Route("/api/live", self._follow),
                Mount("/static", StaticFiles(directory=STATIC)),
            ]
        )

    def end(self) -> None:
        """Let all live views end."""
        for outbox in tuple(self._outboxes):
            outbox.end("stopping")

    async def _index(self, _: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def _healthz(self, _: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def viewer(self, request: Request) -> Viewer:
        """Return who sends a request. Raises RefusedError."""
        if self._gate is None:
            return Everybody()
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token.strip() or len(token) > _MAX_TOKEN:
            raise RefusedError(401, "A token is needed. Make one: kubectl create token SERVICEACCOUNT")
        viewer: Viewer = TokenViewer(self._gate, token.strip(), self._cluster)
        deadline = asyncio.get_running_loop().time() + _TOKEN_S
        # The gate's threads ask, and have nobody to call back.
        while (status := viewer.status()) is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if status == ALLOWED:
            return viewer
        if status == UNAUTHENTICATED:
            raise RefusedError(401, "The API server does not know this token, or it has expired.")
        raise RefusedError(503, "The API server cannot be asked who you are: try again.")

    async def _session(self, request: Request) -> object:
        await self.viewer(request)
        return {"cluster": self._cluster, "auth": "none" if self._gate is None else "kubernetes",
                "problem": self._feed.problem() or "", "last": LAST, "most": IN_WINDOW}  # fmt: skip

    async def _flows(self, request: Request) -> object:
        viewer = await self.viewer(request)
        query = read_query(request.query_params.multi_items())
        return await self._ask(partial(self._past.flows, query, viewer))

    async def _explain(self, request: Request) -> object:
        viewer = await self.viewer(request)
        record_id, at = request.query_params.get("id", ""), request.query_params.get("at", "")
        if not record_id or not at or len(record_id) > 100 or len(at) > 40:
            raise RefusedError(400, "A record is named by its id and its time.")
        return await self._ask(partial(self._past.explanation, record_id, at, viewer))

    async def _ask(self, question: Callable[[], T]) -> T:
        """Ask on a thread. Raises RefusedError if too many others wait, and what the question raises."""
        if self._waiting >= _MAX_WAITING:
            raise RefusedError(503, "Too many questions wait for their answer: try again.")
        self._waiting += 1
        try:
            async with self._asking:
                return await asyncio.wrap_future(start_work(question, "web-question"))
        finally:
            self._waiting -= 1

    def _answering(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """Return an endpoint that answers with JSON what a function returns, and says what it raises."""

        async def endpoint(request: Request) -> Response:
            try:
                found = await answer(request)
                return Response(msgspec.json.encode(found), media_type="application/json")
            except Exception as error:
                return self._refused(error)

        return endpoint

    def _refused(self, error: Exception) -> Response:
        """Return the answer that says why there is none. Raises an error that nobody foresaw."""
        status, field, text = _refusal(error)
        self._metrics.refused.labels(str(status)).inc()
        return Response(orjson.dumps({"error": text, "field": field}), status, media_type="application/json")

    async def _follow(self, request: Request) -> Response:
        try:
            viewer = await self.viewer(request)
            query = read_query(request.query_params.multi_items())
        except (RefusedError, QueryError) as error:
            return self._refused(error)
        if len(self._outboxes) >= MAX_VIEWS:
            return self._refused(RefusedError(503, f"{MAX_VIEWS} live views are open, as many as may be: close one."))
        outbox = Outbox(asyncio.get_running_loop())
        watcher = Watcher(query.choice, viewer, outbox.put)
        return StreamingResponse(self._stream(outbox, watcher, viewer), media_type="text/event-stream")

    async def _stream(self, outbox: Outbox, watcher: Watcher, viewer: Viewer) -> AsyncIterator[bytes]:
        # Not before: of a browser that is gone already, this never begins, and so never ends.
        self._outboxes.add(outbox)
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
            self._outboxes.discard(outbox)
            self._metrics.views.set(len(self._outboxes))


def _refusal(error: Exception) -> tuple[int, str, str]:
    """Return the status, the field that is wrong, and what to say. Raises an error that nobody foresaw."""
    if isinstance(error, RefusedError):
        return error.status, error.field, str(error)
    if isinstance(error, QueryError):
        return 400, error.field, str(error)
    if isinstance(error, LookupError):
        return 404, "", str(error.args[0]) if error.args else "not found"
    if isinstance(error, ReadError | UndecidedError):
        return 503, "", str(error)
    if isinstance(error, ValueError):
        return 400, "", str(error)
    with contextlib.suppress(AttributeError):
        error.add_note("while a request of the page was answered")
    raise error
