"""Reads the CustomResourceDefinition of a kind that a cluster may do without, and waits for it.

Until the definition serves the version that this program reads, nothing can be read of the kind. The definition is
watched, so that objects of the kind apply seconds after it is installed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson

from enrich.sources.client import AnswerError
from enrich.sources.connection import Connection
from enrich.sources.messages import METADATA_ONLY, decode_event, watch_query
from enrich.sources.resources import Resource

_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_ANSWER_S: Final = 60.0
_RETRY_S: Final = 30.0


class Definition(NamedTuple):
    """What the server says of a kind's definition."""

    exists: bool = False
    readable: bool = True
    """Whether the server answered with a definition, or that there is none."""
    uid: str = ""
    served: tuple[str, ...] = ()
    """The versions that it serves."""
    is_ending: bool = False
    """Whether it is being deleted: first the server deletes all objects of the kind."""
    version: str = ""
    """The resource version."""


UNREADABLE: Final = Definition(readable=False)


def read_definition(connection: Connection, resource: Resource) -> Definition:
    """Ask for the definition of a kind. Raises what the client raises, but for 403 and 404."""
    try:
        with connection.open(f"{_DEFINITIONS}/{resource.definition}", {}, "application/json", _ANSWER_S) as response:
            found = orjson.loads(response.read())
    except AnswerError as error:
        if error.status not in (403, 404):
            raise
        return UNREADABLE if error.status == 403 else Definition()
    try:
        meta, versions = found["metadata"], found["spec"]["versions"]
        served = tuple(str(version["name"]) for version in versions if version.get("served"))
        uid, ending = str(meta.get("uid") or ""), "deletionTimestamp" in meta
        return Definition(exists=True, uid=uid, served=served, is_ending=ending, version=str(meta["resourceVersion"]))
    except (KeyError, TypeError, AttributeError):
        return UNREADABLE


def wait_for_definition(
    connection: Connection, resource: Resource, absent: Callable[[str], None], silence_s: float
) -> bool:
    """Wait until the definition of a kind changes; False if the kind is about to be served.

    ``absent`` is called once it is certain that the server does not serve the kind, with a reason if a person should
    know it. ``silence_s``: how long the server may send nothing. Raises what the client raises.
    """
    query = watch_query(fieldSelector=f"metadata.name={resource.definition}")
    found = read_definition(connection, resource)
    if resource.version.rpartition("/")[2] in found.served and not found.is_ending:
        return False
    if not found.exists:
        absent("")
    elif found.is_ending:
        absent("its definition is being deleted")
    else:
        absent(f"the cluster has {', '.join(found.served)} of it, this program reads {resource.version}")
    if not found.readable:
        # Without permission to read definitions, the kind itself is requested now and then.
        connection.progress.confirm()
        connection.stopping.wait(_RETRY_S * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
        return True
    if found.version:
        query["resourceVersion"] = found.version
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
