"""Waits for the CustomResourceDefinition of a kind that a cluster may do without.

Until the definition serves the version that this program reads, the kind counts as empty. The definition is watched, so
that objects of the kind apply seconds after it is installed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import orjson

from enrich.sources.client import AnswerError
from enrich.sources.connection import Connection
from enrich.sources.messages import METADATA_ONLY, decode_event, watch_query
from enrich.sources.resources import Resource

_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_ANSWER_S: Final = 60.0
_RETRY_S: Final = 30.0


def wait_for_definition(
    connection: Connection, resource: Resource, absent: Callable[[str], None], silence_s: float
) -> bool:
    """Wait until the definition of a kind changes; False if the kind is about to be served.

    ``absent`` is called once it is certain that the server does not serve the kind, with a reason if a person should
    know it. ``silence_s``: how long the server may send nothing. Raises what the client raises.
    """
    query = watch_query(fieldSelector=f"metadata.name={resource.definition}")
    try:
        with connection.open(f"{_DEFINITIONS}/{resource.definition}", {}, "application/json", _ANSWER_S) as response:
            found = orjson.loads(response.read())
        served = [version["name"] for version in found["spec"]["versions"] if version.get("served")]
        if resource.version.rpartition("/")[2] in served:
            return False
        absent(f"the cluster has {', '.join(served)} of it, this program reads {resource.version}")
        query["resourceVersion"] = found["metadata"]["resourceVersion"]
    except AnswerError as error:
        if error.status not in (403, 404):
            raise
        absent("")
        if error.status == 403:
            # Without permission to read definitions, the kind itself is requested now and then.
            connection.progress.confirm()
            connection.stopping.wait(_RETRY_S * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            return True
    _wait_for_change(connection, query, silence_s)
    return True


def _wait_for_change(connection: Connection, query: dict[str, str], silence_s: float) -> None:
    connection.progress.begin(resumed=False)
    try:
        with connection.open(_DEFINITIONS, query, METADATA_ONLY % "", silence_s) as response:
            for line in connection.lines(response, lambda: False):
                if decode_event(line).type != "BOOKMARK":
                    return
    finally:
        connection.progress.end()
