"""Answers the requests of the view Policies, by the commands `weir policies`, `weir backtest` and `weir recommend`.

Somebody who may see all namespaces asks about any of them, or about the whole cluster. Others name a namespace that
they may see: the commands are then asked about it only, and name of other namespaces only the ends that were seen
(``--for-reader``). One command runs at a time, because each reads the journal and the pairs of its window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route

from enrich.wire.bounds import is_namespace
from streams.cli.runs import Bounds
from streams.web.answers import Answers, RefusedError
from streams.web.commands import CannotSayError, answer_of
from streams.web.turns import GoneError, Turns
from streams.web.viewers import EVERYWHERE

WINDOWS: Final = ("1h", "24h", "7d", "30d")
"""The times that a person may choose."""
MAX_TEXT: Final = 1 << 20
"""Bytes of policies that a person may paste."""
MAX_FINDINGS: Final = 300
MAX_POLICIES: Final = 1000
"""How many findings of a backtest, and how many policies, are sent to a browser."""
_BOUNDS: Final = Bounds(seconds=60.0, max_printed=16 << 20, max_memory=512 << 20)
_UPLOAD_S: Final = 30.0
_LOOK_S: Final = 0.5
"""How often the page checks that the browser that asked is still connected."""
_HOW: Final = (
    "kubectl create rolebinding NAME -n NAMESPACE --clusterrole=kubeweir-flows-viewer --serviceaccount=NS:NAME"
)
Json = dict[str, Any]


class Policies:
    """The view Policies."""

    def __init__(self, answers: Answers, cluster: str) -> None:
        """``cluster``: the only one that is shown; empty: the one that the topics have."""
        self._answers, self._cluster = answers, cluster
        self._turns = Turns(1, "questions about policies")
        self.routes: Final[Sequence[Route]] = (
            answers.route("/api/policies", self._policies),
            answers.route("/api/backtest", self._backtest, "POST"),
            answers.route("/api/recommend", self._recommend),
        )

    async def _policies(self, request: Request) -> Json:
        scope = await self._scope(request)
        found = await self._ask(request, scope, ("policies", "--manifests"))
        if "policies" in found:
            found["left_out"] = max(0, len(found["policies"]) - MAX_POLICIES)
            del found["policies"][MAX_POLICIES:]
        return found

    async def _backtest(self, request: Request) -> Json:
        scope = await self._scope(request)
        text = await _pasted(request)
        return await self._ask(request, scope, ("backtest", f"--most={MAX_FINDINGS}"), text)

    async def _recommend(self, request: Request) -> Json:
        scope = await self._scope(request)
        if not request.query_params.get("namespace"):
            raise RefusedError(400, "Choose a namespace: policies are recommended for one at a time.", "namespace")
        found = await self._ask(request, scope, ("recommend",))
        return found if "empty" in found else {"recommended": found["list"]}

    async def _scope(self, request: Request) -> tuple[str, ...]:
        """Return the options that say what is asked about, as far as the viewer may see it. Raises RefusedError."""
        viewer = await self._answers.viewer(request)
        namespace, since = request.query_params.get("namespace", ""), request.query_params.get("since", "7d")
        if namespace and not is_namespace(namespace):
            raise RefusedError(
                400, "No namespace has this name: write lower-case letters, digits and '-'.", "namespace"
            )
        if since not in WINDOWS:
            raise RefusedError(400, f"since must be one of {', '.join(WINDOWS)}", "since")
        # Options with =, so that no value is taken for an option.
        options = [f"--since={since}", *([f"--cluster={self._cluster}"] if self._cluster else [])]
        if namespace:
            options.append(f"--namespace={namespace}")
        if await self._answers.decided(lambda: viewer.may_see(EVERYWHERE)):
            return tuple(options)
        if not namespace:
            raise RefusedError(
                403, "You may not see all namespaces: write the name of one that you may see.", "namespace"
            )
        if not await self._answers.decided(lambda: viewer.may_see(namespace)):
            raise RefusedError(403, f"You may not see the namespace {namespace}. Somebody who may: {_HOW}", "namespace")
        return (*options, "--for-reader")

    async def _ask(self, request: Request, scope: Sequence[str], words: Sequence[str], stdin: bytes = b"") -> Json:
        """Return what a command answers, which reads ``stdin`` unless that is empty; if what is kept does not answer,
        why. Raises RefusedError, TooManyError, GoneError."""
        command = (*words[:1], "--output=json", *words[1:], *scope, *(("--", "-") if stdin else ()))
        viewer = await self._answers.viewer(request)
        async with self._turns.turn(viewer.asker, request.is_disconnected):
            try:
                found = await _while_connected(request, answer_of(command, _BOUNDS, stdin, "policies"))
            except CannotSayError as error:
                found = {"empty": str(error)}
        # Minutes may have passed, most of them in the queue.
        if await self._scope(request) != scope:
            raise RefusedError(403, "What you may see has changed meanwhile: ask again.")
        return found if isinstance(found, dict) else {"list": found}


async def _while_connected(request: Request, answer: Coroutine[Any, Any, Any]) -> Any:
    """Return an answer, and end its command when the browser is gone: others wait for their turn. Raises GoneError,
    and what the answer raises."""
    asking = asyncio.create_task(answer)
    try:
        while not (await asyncio.wait((asking,), timeout=_LOOK_S))[0]:
            if await request.is_disconnected():
                raise GoneError
        return asking.result()
    finally:
        if asking.cancel():
            await asyncio.wait((asking,))


async def _pasted(request: Request) -> bytes:
    """Return the policies in the body of a request. Raises RefusedError."""
    text = bytearray()
    try:
        async with asyncio.timeout(_UPLOAD_S):
            async for piece in request.stream():
                text.extend(piece)
                if len(text) > MAX_TEXT:
                    raise RefusedError(413, f"Policies may have {MAX_TEXT >> 20} MiB at most: test fewer.", "policies")
    except (TimeoutError, ClientDisconnect):
        raise RefusedError(408, "The policies have not arrived: try again.", "policies") from None
    if not text.strip():
        raise RefusedError(400, "Paste a policy in YAML, or drop a file.", "policies")
    return bytes(text)
