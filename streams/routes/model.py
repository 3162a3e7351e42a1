"""The routes file as values. ``streams/schemas/routes.schema.json`` is made from these types; a test compares the two.

:mod:`streams.routes.check` finds what a type cannot say, such as a topic name that Kafka refuses.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from streams.config.fields import Duration, EntryName, Positive
from streams.config.http_target import HttpTarget, Url, UrlFile, UrlVariable
from streams.forms import Form
from streams.matching.matcher import Matcher
from streams.matching.model import Match, Patterns


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the file. An unknown field is a mistake, because a mistyped name must not mean the default."""


FormField = Annotated[
    Form,
    Meta(
        description="The form of each record. record: as on Kafka. ecs: Elastic Common Schema. ocsf: Network Activity "
        "(4001) of the Open Cybersecurity Schema Framework. cef: ArcSight's Common Event Format, which is not JSON."
    ),
]


class Kafka(_Strict, frozen=True):
    """A topic, which the enricher writes, and creates if it is missing."""

    topic: Annotated[
        str, Meta(description="The name of the topic. {namespace} stands for the namespace of the subject pod.")
    ]
    namespaces: Annotated[
        Patterns | None,
        Meta(description="The namespaces that may have a topic. Required with {namespace} in the topic."),
    ] = None
    limit: Annotated[Positive, Meta(le=10_000, description="How many topics {namespace} may make at most.")] = 100
    key: Annotated[
        Literal["pod", "namespace", "node", "none"] | None,
        Meta(
            description="The key of a Kafka record. pod: NAMESPACE/NAME of the subject pod, the default of "
            "`format: record`. node: the node that decided, the default of `format: lines`."
        ),
    ] = None
    format: Annotated[
        Literal["record", "lines"],
        Meta(description="record: a Kafka record for each verdict. lines: a line for each, joined per key and batch."),
    ] = "record"
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    partitions: Annotated[Positive, Meta(le=10_000, description="Partitions of a topic that is created.")] = 8
    retention: Annotated[Duration, Meta(description="Retention of a topic that is created.")] = "3d"
    form: FormField = "record"


class File(_Strict, frozen=True):
    """JSON lines in a file that is rotated."""

    path: str | None = None
    preset: Annotated[
        Literal["gke"] | None, Meta(description="gke: the path and the rotation of GKE's policy logger.")
    ] = None
    max_bytes: Annotated[Positive, Meta(description="Rotate the file before it grows larger than this.")] = 10_000_000
    max_age: Annotated[
        Duration | None, Meta(description="Rotate the file when its first record is older than this.")
    ] = None
    keep: Annotated[int, Meta(ge=0, le=100_000, description="How many rotated files are kept.")] = 5
    gzip: Annotated[bool, Meta(description="Compress rotated files.")] = False
    form: FormField = "record"


class Stdout(_Strict, frozen=True):
    """JSON lines on the standard output of the worker."""

    form: FormField = "record"


class Otlp(HttpTarget, frozen=True):
    """OpenTelemetry logs, sent by OTLP over HTTP or gRPC."""

    protocol: Annotated[
        Literal["http", "grpc"],
        Meta(description="grpc needs the package grpcio, which the image has (otherwise: the extra otlp-grpc)."),
    ] = "http"
    endpoint: Annotated[
        Url | None,
        Meta(
            description="The whole URL, such as http://collector:4318/v1/logs; with `protocol: grpc` scheme, host and "
            "port, such as http://collector:4317. https:// is with TLS."
        ),
    ] = None
    endpoint_env: UrlVariable | None = None
    endpoint_file: UrlFile | None = None
    timeout: Annotated[Duration, Meta(description="For one request with its retries.")] = "10s"
    form: Annotated[
        Form, Meta(description="The form of the body of each log; see the other outputs. Attributes do not change.")
    ] = "record"


class Events(_Strict, frozen=True):
    """Kubernetes Events on the subject pod. Allowed connections make none."""

    every: Annotated[
        Duration,
        Meta(description="Equal denials (pod, reason, other end, port) make at most one Event in this time."),
    ] = "10m"
    per_minute: Annotated[Positive, Meta(description="How many Events this worker creates in a minute at most.")] = 60


class RouteOutput(_Strict, frozen=True):
    """Where the records of a route go: exactly one of the kinds is set."""

    name: Annotated[
        EntryName | None,
        Meta(
            description="Names the output, and so its consumer group, which keeps its place in the topic. Required if "
            "the route has two outputs of a kind; by default the kind."
        ),
    ] = None
    kafka: Kafka | None = None
    file: File | None = None
    stdout: Stdout | None = None
    otlp: Otlp | None = None
    events: Events | None = None

    @property
    def kind(self) -> str:
        """The name of the field that is set."""
        return next(iter(self.kinds), "")

    @property
    def kinds(self) -> list[str]:
        """The names of all kinds that are set; a good file has exactly one."""
        return [kind for kind in OUTPUT_KINDS if getattr(self, kind) is not None]


OUTPUT_KINDS: Final = tuple(name for name in RouteOutput.__struct_fields__ if name != "name")


class Route(_Strict, frozen=True, rename={"excluded": "except"}):
    """Records that fit ``match``, or one of several, and none of ``except`` go to all outputs."""

    name: EntryName
    outputs: Annotated[list[RouteOutput], Meta(min_length=1)]
    match: Match | list[Match] = Match()
    excluded: Match | list[Match] = []
    sample: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="The share of allowed connections to take. Both records of a connection are taken, or neither.",
        ),
    ] = 1.0

    def matcher(self) -> Matcher:
        """Return the conditions of the route, ready to be asked."""
        return Matcher(self.name, self.match, self.excluded, self.sample)


class Routes(_Strict, frozen=True):
    """The content of a routes file."""

    version: Literal[1]
    routes: Annotated[list[Route], Meta(max_length=64)] = []


GKE_PATH: Final = "/var/log/network/policy_action.log"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    made = msgspec.json.schema(Routes)
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:kubeweir:routes:1",
        "title": "Routes of kubeweir",
    }
    return {**about, **made}
