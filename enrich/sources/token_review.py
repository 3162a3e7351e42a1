"""Asks the API server whose a token is, and whether RBAC lets that user read a page of the metrics port, or the records
of a namespace."""

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
GROUP: Final = "kubeweir.io"
FLOWS: Final = "flows"
"""The resource by which RBAC says who may see the records of a namespace. No API serves it: it is only a name, as those
of other proxies are."""
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def metrics_guard(settings: MetricsSettings, connect: Callable[[], Client] | None = None) -> Guard | None:
    """Return what guards the metrics port by these settings, None if nothing does. Raises SettingsError."""
    settings.check_metrics()
    if settings.metrics_certificate is None or settings.metrics_key is None:
        return None
    gate = TokenGate(reviewer(connect or _connected)) if settings.metrics_auth == "kubernetes" else None
    return Guard(settings.metrics_certificate, settings.metrics_key, gate)


def reviewer(connect: Callable[[], Client]) -> Review:
    """Return a function that asks the API server whether the bearer of a token may read a page of the metrics port. It
    connects at the first question."""

    def attributes(path: str) -> dict[str, Any]:
        return {"nonResourceAttributes": {"path": path, "verb": "get"}}

    return _reviewer(connect, attributes, "the metrics port")


def flows_reviewer(connect: Callable[[], Client] | None = None) -> Review:
    """Return a function that asks the API server whether the bearer of a token may see the records of a namespace; of
    the empty name: of all of them. It connects at the first question."""

    def attributes(namespace: str) -> dict[str, Any]:
        return {"resourceAttributes": {"namespace": namespace, "verb": "get", "group": GROUP, "resource": FLOWS}}

    return _reviewer(connect or _connected, attributes, "records on the page")


def _reviewer(connect: Callable[[], Client], attributes: Callable[[str], dict[str, Any]], what: str) -> Review:
    clients: list[Client] = []
    logged_at = [-_REPORT_S]

    def review(token: str, subject: str) -> int:
        try:
            if not clients:
                clients.append(connect())
            return _review(clients[0], token, attributes(subject))
        except (AnswerError, SourceError, ValueError, TypeError, AttributeError, LookupError) as error:
            if time.monotonic() - logged_at[0] >= _REPORT_S:  # anybody can send tokens
                logged_at[0] = time.monotonic()
                log.warning(f"the API server cannot be asked who may read {what}, so no one may",
                            error=str(error), hint="the service account needs create on tokenreviews and "
                            "subjectaccessreviews")  # fmt: skip
            return UNKNOWN

    return review


def _review(client: Client, token: str, attributes: dict[str, Any]) -> int:
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
