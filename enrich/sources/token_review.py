"""Asks the API server whose a token is, and whether RBAC lets that user read a page of the metrics port, or the records
of a namespace."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN, Review
from enrich.sources.client import AnswerError, Client
from enrich.sources.source import SourceError

log = structlog.get_logger("kubeweir.source")

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_REPORT_S: Final = 15.0
GROUP: Final = "kubeweir.io"
FLOWS: Final = "flows"
"""The resource by which RBAC says who may see the records of a namespace. No API serves it: it is only a name, as those
of other proxies are."""
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_USER_S: Final = 10.0
"""How long the user of a token is remembered: the page asks about a viewer once for each namespace, within moments."""
_MAX_USERS: Final = 256


def reviewer(connect: Callable[[], Client] | None = None) -> Review:
    """Return a function that asks the API server whether the bearer of a token may read a page of the metrics port. It
    connects at the first question."""

    def attributes(path: str) -> dict[str, Any]:
        return {"nonResourceAttributes": {"path": path, "verb": "get"}}

    return _reviewer(connect or _connected, attributes, "the metrics port", _Users().of)


def flows_reviewer(
    connect: Callable[[], Client] | None = None, on_user: Callable[[str, str], object] = lambda *_: None
) -> Review:
    """Return a function that asks the API server whether the bearer of a token may see the records of a namespace; of
    the empty name: of all of them. It connects at the first question. ``on_user`` is called with each token that is
    valid, and the name of its user."""
    return _reviewer(connect or _connected, _flows, "records on the page", _Users(on_user).of)


def _flows(namespace: str) -> dict[str, Any]:
    return {"resourceAttributes": {"namespace": namespace, "verb": "get", "group": GROUP, "resource": FLOWS}}


def users_reviewer(connect: Callable[[], Client] | None = None) -> Review:
    """Return a function that asks the API server whether a user may see the records of a namespace; of the empty name:
    of all of them. In place of a token it takes what :func:`user_text` returns."""
    return _reviewer(connect or _connected, _flows, "records on the page", lambda _, text: orjson.loads(text))


def user_text(name: str, groups: Sequence[str], extra: Mapping[str, Sequence[str]]) -> str:
    """Return a user as a text, equal for equal users."""
    user = {"username": name, "groups": list(groups), "extra": {key: list(values) for key, values in extra.items()}}
    return orjson.dumps(user, option=orjson.OPT_SORT_KEYS).decode()


def name_of_user(text: str) -> str:
    """Return the name in what :func:`user_text` returned."""
    return str(orjson.loads(text)["username"])


_FindUser = Callable[[Client, str], dict[str, Any] | None]
"""Returns the user of a token, None if the token is not valid."""


def _reviewer(
    connect: Callable[[], Client], attributes: Callable[[str], dict[str, Any]], what: str, find_user: _FindUser
) -> Review:
    clients: list[Client] = []
    logged_at = [-_REPORT_S]

    def review(token: str, subject: str) -> int:
        try:
            if not clients:
                clients.append(connect())
            user = find_user(clients[0], token)
            return UNAUTHENTICATED if user is None else _review(clients[0], user, attributes(subject))
        except (AnswerError, SourceError, ValueError, TypeError, AttributeError, LookupError) as error:
            if time.monotonic() - logged_at[0] >= _REPORT_S:  # anybody can send tokens
                logged_at[0] = time.monotonic()
                log.warning(f"the API server cannot be asked who may read {what}, so no one may",
                            error=str(error), hint="the service account needs create on tokenreviews and "
                            "subjectaccessreviews")  # fmt: skip
            return UNKNOWN

    return review


class _Users:
    """Remembers for a moment who the API server says has a token. Any thread may call it."""

    def __init__(self, on_user: Callable[[str, str], object] = lambda *_: None) -> None:
        self._lock, self._on_user = threading.Lock(), on_user
        self._known: OrderedDict[bytes, tuple[float, dict[str, Any]]] = OrderedDict()

    def of(self, client: Client, token: str) -> dict[str, Any] | None:
        """Return the user of a token, None if it is not valid. Raises what the client raises."""
        key = hashlib.sha256(token.encode()).digest()
        with self._lock:
            until, user = self._known.get(key, (0.0, {}))
        if until > time.monotonic():
            return user
        began_at = time.monotonic()
        found = _user(client, token)
        if found is not None:
            self._on_user(token, str(found["username"]))
            with self._lock:
                self._known[key] = began_at + _USER_S, found
                self._known.move_to_end(key)
                while len(self._known) > _MAX_USERS:
                    self._known.popitem(last=False)
        return found


def _user(client: Client, token: str) -> dict[str, Any] | None:
    if not token.strip():
        return None  # the API server refuses the question
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status = _status(client.create(_TOKEN_REVIEWS, body))
    if status.get("authenticated") is not True:
        return None
    user = status["user"]
    return user if isinstance(user, dict) and user.get("username") else None


def _review(client: Client, user: dict[str, Any], attributes: dict[str, Any]) -> int:
    spec = {
        "user": user["username"], "uid": user.get("uid", ""), "groups": user.get("groups", []),
        "extra": user.get("extra", {}), **attributes,
    }  # fmt: skip
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    status = _status(client.create(_ACCESS_REVIEWS, body))
    return ALLOWED if status.get("allowed") is True and status.get("denied") is not True else FORBIDDEN


def _status(answer: bytes) -> dict[str, Any]:
    status = orjson.loads(answer).get("status")
    return status if isinstance(status, dict) else {}


def _connected() -> Client:
    client = Client()
    client.connect()
    return client
