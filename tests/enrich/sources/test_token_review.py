"""Whose a token is, is asked once for many namespaces, and never answered for another token."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, cast

import pytest

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN
from enrich.sources import token_review
from enrich.sources.client import AnswerError, Client
from enrich.sources.token_review import flows_reviewer


class Api:
    """An API server that knows one token, whose bearer may see the namespace shop."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.known, self.is_away = {"t"}, False

    def create(self, path: str, body: dict[str, Any]) -> bytes:
        if self.is_away:
            raise AnswerError("away", 503)
        self.asked[body["kind"]] += 1
        if body["kind"] == "TokenReview":
            is_known = body["spec"]["token"] in self.known
            return json.dumps({"status": {"authenticated": is_known, "user": {"username": "ann"}}}).encode()
        assert body["spec"]["user"] == "ann"
        return json.dumps({"status": {"allowed": body["spec"]["resourceAttributes"]["namespace"] == "shop"}}).encode()


def test_whose_a_token_is_is_asked_once_for_many_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    review = flows_reviewer(lambda: cast("Client", api))
    assert [review("t", one) for one in ("shop", "bank", "")] == [ALLOWED, FORBIDDEN, FORBIDDEN]
    assert api.asked == {"TokenReview": 1, "SubjectAccessReview": 3}
    assert review("made-up", "shop") == review("made-up", "shop") == review(" ", "shop") == UNAUTHENTICATED
    assert api.asked["TokenReview"] == 3
    # A token that is taken back is known for a moment more.
    api.known.clear()
    assert review("t", "shop") == ALLOWED
    monkeypatch.setattr(token_review, "_USER_S", -1.0)
    review = flows_reviewer(lambda: cast("Client", api))
    assert review("t", "shop") == UNAUTHENTICATED
    api.is_away = True
    assert review("t", "shop") == UNKNOWN
