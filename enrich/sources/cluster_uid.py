"""Reads which cluster an API server belongs to: the UID of its namespace kube-system.

It is read by a list of one, because the probe may list namespaces and get none.
"""

from __future__ import annotations

from typing import Final

import orjson

from enrich.sources.client import AnswerError
from enrich.sources.connection import Connection

_NAMESPACES: Final = "/api/v1/namespaces"
_QUERY: Final = {"fieldSelector": "metadata.name=kube-system", "limit": "1"}
_ANSWER_S: Final = 60.0


def read_cluster_uid(connection: Connection) -> str:
    """Return the UID, empty if the server does not show it. Raises what the client raises, but for 403 and 404."""
    try:
        with connection.open(_NAMESPACES, _QUERY, "application/json", _ANSWER_S) as response:
            found = orjson.loads(response.read())
    except AnswerError as error:
        if error.status not in (403, 404):
            raise
        return ""
    try:
        return str(found["items"][0]["metadata"]["uid"])
    except (KeyError, TypeError, IndexError):
        return ""
