"""The application: the views of the page, their files, and the requests that each of them answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from streams.metrics.web import WebMetrics
from streams.web.alerts import Alerts
from streams.web.answers import Answers
from streams.web.feed import FlowFeed
from streams.web.firing import FiringAlerts
from streams.web.flows import FlowsView
from streams.web.health import Health
from streams.web.map import Map
from streams.web.map_question import MapQuestion
from streams.web.past import IN_WINDOW, PastQuestions
from streams.web.policies import Policies
from streams.web.views import documents

STATIC: Final = Path(__file__).parent / "static"


class Page:
    """The application."""

    def __init__(
        self,
        feed: FlowFeed,
        past: PastQuestions,
        pairs: MapQuestion,
        firing: FiringAlerts,
        metrics: WebMetrics,
        answers: Answers,
        cluster: str,
    ) -> None:
        self._answers, self._feed = answers, feed
        self._flows = FlowsView(self._answers, feed, past, metrics)
        health = Health(self._answers, cluster)
        self.app = Starlette(
            routes=[
                *(Route(path, _document(text)) for path, text in documents().items()),
                Route("/healthz", _healthz),
                self._answers.route("/api/session", self._session),
                *self._flows.routes,
                *health.routes,
                *Alerts(self._answers, firing).routes,
                *Map(self._answers, pairs).routes,
                *Policies(self._answers, cluster).routes,
                Mount("/static", StaticFiles(directory=STATIC)),
            ]
        )

    async def _session(self, request: Request) -> object:
        await self._answers.viewer(request)
        return {**self._answers.about, "problem": self._feed.problem() or "", "most": IN_WINDOW}

    def end(self) -> None:
        """Let all live views end."""
        self._flows.end()


def _document(text: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    return endpoint


async def _healthz(_: Request) -> Response:
    return Response("ok\n", media_type="text/plain")
