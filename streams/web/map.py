"""Answers the requests of the view Map: one map at a time, because each adds up all pairs of its time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.routing import Route

from streams.web.answers import Answers
from streams.web.map_question import MapQuestion
from streams.web.query import QueryError, read_query
from streams.web.turns import Turns

DEFAULT_SINCE: Final = "24h"


class Map:
    """The view Map."""

    def __init__(self, answers: Answers, question: MapQuestion) -> None:
        self._answers, self._question = answers, question
        self._turns = Turns(1, "maps")
        self.routes: Final[Sequence[Route]] = (answers.route("/api/map", self._map),)

    async def _map(self, request: Request) -> object:
        viewer = await self._answers.viewer(request)
        times = {name: request.query_params.get(name, "") for name in ("since", "until")}
        if not any(times.values()):
            times["since"] = DEFAULT_SINCE
        window = read_query(times.items()).window
        if window is None:
            raise QueryError("since", "a map needs a beginning")
        async with self._turns.turn(viewer.asker, request.is_disconnected):
            return await self._answers.ask(request, viewer, partial(self._question.ask, window, viewer))
