"""What the requests of all views have in common: who asks, questions on threads, answers in JSON, and errors.

A view has a module that answers its requests, with a list of ``routes`` that :meth:`Answers.route` makes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enrich.runtime.token_gate import ALLOWED, UNAUTHENTICATED, TokenGate
from enrich.runtime.work_thread import start_work
from streams.kafka.connection import ReadError
from streams.metrics.web import WebMetrics
from streams.web.askers import Askers
from streams.web.front_proxy import FrontProxy, HeaderError, says_user
from streams.web.past import UndecidedError
from streams.web.query import QueryError
from streams.web.turns import GoneError, TooManyError, Turns
from streams.web.viewers import Everybody, TokenViewer, Viewer

_MAX_QUESTIONS: Final = 3
"""How many questions about the past are asked at once."""
_TOKEN_S: Final = 5.0
_MAX_TOKEN: Final = 8192
T = TypeVar("T")


class RefusedError(Exception):
    """A request is not answered. The message says why, to a person."""

    def __init__(self, status: int, text: str, field: str = "") -> None:
        super().__init__(text)
        self.status, self.field = status, field


class Answers:
    """Answers requests for all views."""

    def __init__(
        self,
        metrics: WebMetrics,
        gate: TokenGate | None,
        cluster: str,
        proxy: FrontProxy | None = None,
        askers: Askers | None = None,
    ) -> None:
        """``gate``: None lets everybody see everything. ``proxy``: with None, user headers are not believed. ``askers``
        knows whose tokens are."""
        self._metrics, self._gate, self._cluster, self._proxy = metrics, gate, cluster, proxy
        self._turns, self._askers = Turns(_MAX_QUESTIONS, "questions"), askers or Askers()

    @property
    def about(self) -> dict[str, str]:
        """What every view shows: the cluster, and how people sign in."""
        return {"cluster": self._cluster, "auth": "none" if self._gate is None else "kubernetes"}

    async def viewer(self, request: Request) -> Viewer:
        """Return who sends a request. Raises RefusedError."""
        if self._gate is None:
            return Everybody()
        viewer: Viewer | None = self._proxys_user(request)
        unknown = "The API server does not know this token, or it has expired."
        if viewer is None:
            viewer = TokenViewer(self._gate, self._token(request), self._cluster, self._askers.name)
        else:
            unknown = "The certificate of the proxy that has signed you in is not believed any more."
        status = await _known(viewer.status)
        if status == ALLOWED:
            return viewer
        if status == UNAUTHENTICATED:
            raise RefusedError(401, unknown)
        raise RefusedError(503, "The API server cannot be asked who you are: try again.")

    def _proxys_user(self, request: Request) -> Viewer | None:
        """Return whom a front proxy names, None if none does. Raises RefusedError."""
        if self._proxy is None:
            return None
        try:
            return self._proxy.viewer(request, self._cluster)
        except HeaderError as error:
            raise RefusedError(401, f"Who you are is not known: {error}.") from None

    def _token(self, request: Request) -> str:
        """Return the token of a request. Raises RefusedError."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and token.strip() and len(token) <= _MAX_TOKEN:
            return token.strip()
        if self._proxy is not None and says_user(request):
            raise RefusedError(
                401,
                "A token is needed. User headers are believed from a proxy with a certificate of WEIR_WEB_PROXY_CA "
                "and a name in WEIR_WEB_PROXY_NAMES only.",
            )
        raise RefusedError(401, "A token is needed. Make one: kubectl create token SERVICEACCOUNT")

    async def decided(self, ask: Callable[[], bool | None]) -> bool:
        """Return the answer to a question about rights. Raises RefusedError if there is none in time."""
        answer = await _known(ask)
        if answer is None:
            raise RefusedError(503, "The API server cannot be asked what you may see: try again.")
        return answer

    async def ask(self, request: Request, viewer: Viewer, question: Callable[[], T]) -> T:
        """Ask a question on a thread when it is the viewer's turn, and return its answer. Raises TooManyError,
        GoneError, and what the question raises."""
        async with self._turns.turn(viewer.asker, request.is_disconnected):
            return await asyncio.wrap_future(start_work(question, "web-question"))

    def route(self, path: str, answer: Callable[[Request], Awaitable[object]], method: str = "GET") -> Route:
        """Return a route that answers with what a function returns, as JSON, or with the error that it raises."""

        async def endpoint(request: Request) -> Response:
            try:
                found = await answer(request)
                return Response(msgspec.json.encode(found), media_type="application/json")
            except Exception as error:
                return self.refused(error)

        return Route(path, endpoint, methods=[method])

    def refused(self, error: Exception) -> Response:
        """Return the answer that says why there is none. Raises an unexpected error again."""
        status, field, text = _refusal(error)
        self._metrics.refused.labels(str(status)).inc()
        # A proxy whose certificate is not believed any more must connect again with its new one.
        headers = {"Connection": "close"} if status == 401 else {}
        return Response(orjson.dumps({"error": text, "field": field}), status, headers, "application/json")


async def _known(ask: Callable[[], T | None]) -> T | None:
    """Return an answer of the API server, None if there is none in time."""
    deadline = asyncio.get_running_loop().time() + _TOKEN_S
    # The gate's threads ask the API server, and cannot call back.
    while (answer := ask()) is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return answer


def _refusal(error: Exception) -> tuple[int, str, str]:
    """Return the status, the field that is wrong, and what to say. Raises an unexpected error again."""
    if isinstance(error, RefusedError):
        return error.status, error.field, str(error)
    if isinstance(error, QueryError):
        return 400, error.field, str(error)
    if isinstance(error, LookupError):
        return 404, "", str(error.args[0]) if error.args else "not found"
    if isinstance(error, ReadError | UndecidedError | TooManyError | GoneError):
        return 503, "", str(error)
    if isinstance(error, ValueError):
        return 400, "", str(error)
    with contextlib.suppress(AttributeError):
        error.add_note("while a request of the page was answered")
    raise error
