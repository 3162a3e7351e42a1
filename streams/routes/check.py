"""Checks of a routes file that its types cannot make: topics, files, and fields that do not go together."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from streams.config.http_target import check_target, is_base, url_problem
from streams.config.url_text import shown, without_secrets
from streams.config.yaml_file import Problem, Steps
from streams.matching.check import check_matches
from streams.matching.model import as_list
from streams.routes.model import GKE_PATH, OUTPUT_KINDS, File, Kafka, Route, RouteOutput, Routes

NAMESPACE: Final = "{namespace}"
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]+")
_LOGS_PATH: Final = "/v1/logs"
_MAX_TOPIC_NAME: Final = 249
"""Characters; Kafka's Topic.java."""
_MAX_NAMESPACE_NAME: Final = 63
"""Characters; a namespace is named by a DNS label (RFC 1123)."""


def check(routes: Routes, reserved: frozenset[str]) -> list[Problem]:
    """Return every mistake. ``reserved`` are the topics that routes must not write."""
    return list(_check(routes, reserved))


def _check(routes: Routes, reserved: frozenset[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    files: dict[str, str] = {}
    topics: dict[str, Kafka] = {}
    for number, route in enumerate(routes.routes):
        at: Steps = ("routes", number)
        if route.name in seen:
            yield Problem((*at, "name"), f"another route is called {route.name}")
        seen.add(route.name)
        yield from check_matches((*at, "match"), route.match)
        yield from check_matches((*at, "except"), route.excluded)
        yield from _check_outputs((*at, "outputs"), route, reserved, files, topics)


def _check_outputs(
    at: Steps, route: Route, reserved: frozenset[str], files: dict[str, str], topics: dict[str, Kafka]
) -> Iterator[Problem]:
    names: set[str] = set()
    for index, output in enumerate(route.outputs):
        if len(output.kinds) != 1:
            yield Problem((*at, index), f"must be exactly one of {', '.join(OUTPUT_KINDS)}")
            continue
        if output.kafka is None:
            yield from _check_name((*at, index), output, names)
        if output.kafka is not None:
            yield from _check_topic((*at, index, "kafka"), output.kafka, reserved)
            if topics.setdefault(output.kafka.topic, output.kafka) != output.kafka:
                yield Problem(
                    (*at, index, "kafka"), "another output writes this topic with other settings; give both the same"
                )
        if output.otlp is not None:
            yield from check_target((*at, index, "otlp"), output.otlp, "endpoint")
            if output.otlp.endpoint is not None and url_problem(output.otlp.endpoint) is None:
                check = _check_base if output.otlp.protocol == "grpc" else _check_endpoint
                yield from check((*at, index, "otlp", "endpoint"), output.otlp.endpoint)
        if output.file is not None:
            yield from _check_file((*at, index, "file"), output.file, route.name, files)


def _check_name(at: Steps, output: RouteOutput, names: set[str]) -> Iterator[Problem]:
    """Check that a group's name never depends on the place of an output: a removed one would leave its neighbours its
    offsets."""
    name = output.name or output.kind
    if name in names and output.name is None:
        yield Problem(at, f"must have a name: another output of the route is called {name}")
    elif name in names:
        yield Problem((*at, "name"), f"another output of the route is called {name}")
    names.add(name)


def _check_topic(at: Steps, kafka: Kafka, reserved: frozenset[str]) -> Iterator[Problem]:
    plain = kafka.topic.replace(NAMESPACE, "")
    named = plain != kafka.topic
    if not _TOPIC.fullmatch(plain or "x") or not kafka.topic or kafka.topic in (".", ".."):
        yield Problem((*at, "topic"), f"may have letters, digits, '.', '_', '-' and {NAMESPACE} only")
    elif len(plain) + (_MAX_NAMESPACE_NAME if named else 0) > _MAX_TOPIC_NAME:
        yield Problem((*at, "topic"), f"is too long: the name of a topic has at most {_MAX_TOPIC_NAME} characters")
    elif kafka.topic in reserved:
        yield Problem((*at, "topic"), f"{kafka.topic} is one of kubeweir's own topics; choose another")
    if named and not as_list(kafka.namespaces):
        yield Problem(
            (*at, "namespaces"), f"is required with {NAMESPACE} in the topic: list the namespaces that may have a topic"
        )
    if not named and kafka.namespaces is not None:
        yield Problem((*at, "namespaces"), f"has no effect without {NAMESPACE} in the topic; use match")
    if kafka.format == "record" and kafka.key == "node":
        yield Problem((*at, "key"), "must be pod, namespace or none with `format: record`")


def _check_file(at: Steps, file: File, route: str, files: dict[str, str]) -> Iterator[Problem]:
    if (file.path is None) == (file.preset is None):
        yield Problem(at, "must have exactly one of path, preset")
        return
    if file.path is not None and not PurePosixPath(file.path).is_absolute():
        yield Problem((*at, "path"), f"must begin with /, because a worker has no folder of its own; is {file.path!r}")
    if file.preset is not None and file.form != "record":
        yield Problem(
            (*at, "form"), f"cannot be used with `preset: {file.preset}`, whose lines are records; give a path"
        )
    path = posixpath.normpath(file.path or GKE_PATH)
    if path in files:
        yield Problem((*at, "path" if file.path else "preset"), f"route {files[path]} writes this file already")
    files[path] = route


def _check_base(at: Steps, endpoint: str) -> Iterator[Problem]:
    if not is_base(endpoint):
        yield Problem(at, f"must have no path with `protocol: grpc`: is it {shown(endpoint)}?")


def _check_endpoint(at: Steps, endpoint: str) -> Iterator[Problem]:
    """Check that the URL is the whole one. Other programs take a base, and add the path of the logs themselves."""
    path = urlsplit(endpoint).path.rstrip("/")
    if not path.endswith(_LOGS_PATH):
        whole = f"{without_secrets(endpoint).rstrip('/')}{_LOGS_PATH}"
        yield Problem(at, f"must be the whole URL, which ends with {_LOGS_PATH}: is it {whole}?")
