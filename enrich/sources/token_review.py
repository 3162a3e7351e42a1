"""Asks the API server whose a token is, and whether RBAC lets that user read a page of the metrics port."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import orjson
import structlog

from enrich.runtime.secure_port import Guard, MetricsSettings
from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN, Review, TokenGate
from enrich.sources.client import AnswerError, Client
from enrich.sources.source import SourceError

log = structlog.get_logger("kubeweir.source")

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_REPORT_S: Final = 15.0
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def metrics_guard(settings: MetricsSettings, connect: Callable[[], Client] | None = None) -> Guard | None:
    """Return what guards the metrics port by these settings, None if nothing does. Raises SettingsError."""
    settings.check_metrics()
    if settings.metrics_certificate is None or settings.metrics_key is None:
        return None
    gate = TokenGate(reviewer(connect or _connected)) if settings.metrics_auth == "kubernetes" else None
    return Guard(settings.metrics_certificate, settings.metrics_key, gate)


def reviewer(connect: Callable[[], Client]) -> Review:
    """Return a function that asks the API server. It connects at the first question."""
    clients: list[Client] = []
    logged_at = [-_REPORT_S]

    def review(token: str, path: str) -> int:
        try:
            if not clients:
                clients.append(connect())
            return _review(clients[0], token, path)
        except (AnswerError, SourceError, ValueError, TypeError, AttributeError, LookupError) as error:
            if time.monotonic() - logged_at[0] >= _REPORT_S:  # anybody can send tokens
                logged_at[0] = time.monotonic()
                log.warning("the API server cannot be asked who may read the metrics port, so no one may",
                            error=str(error), hint="the service account needs create on tokenreviews and "
                            "subjectaccessreviews")  # fmt: skip
            return UNKNOWN

    return review


def _review(client: Client, token: str, path: str) -> int:
    if not token.strip():
        return UNAUTHENTICATED  # the API server refuses the question
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status = _status(client.create(_TOKEN_REVIEWS, body))
    if status.get("authenticated") is not True:
        return UNAUTHENTICATED
    user = status["user"]
    if not isinstance(user, dict) or not user.get("username"):
        return UNAUTHENTICATED
    spec = {
        "user": user["username"], "uid": user.get("uid", ""), "groups": user.get("groups", []),
        "extra": user.get("extra", {}), "nonResourceAttributes": {"path": path, "verb": "get"},
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
