"""The routes file as values. ``streams/schemas/routes.schema.json`` is made from these types; a test compares the two.

What a type cannot say (a range, a selector, a topic's name) is checked in :mod:`streams.routes.check`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

Words = str | list[str]
"""One or several; any one may fit, and ``*`` stands for any text."""
Verdict = Literal["allow", "deny", "audit"]
Direction = Literal["ingress", "egress"]
Reason = Literal[
    "unknown", "no_policy", "policy", "default_deny", "explicit_deny", "node", "self", "spoofed", "unparsable",
    "fragment", "not_ready", "adopted", "forbidden_nd", "map_full", "no_origin",
]  # fmt: skip
Port = Annotated[int, Meta(ge=0, le=65535)] | Annotated[str, Meta(pattern=r"^[0-9]{1,5}-[0-9]{1,5}$")]
Age = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,5}[smhd]$", description="A number and s, m, h or d.")]
RouteName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Positive = Annotated[int, Meta(ge=1)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A mistyped field is a mistake, not a default."""


class Expression(_Strict, frozen=True):
    """One of matchExpressions."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []


class Labels(_Strict, frozen=True, rename="camel"):
    """A label selector as Kubernetes has it, over the labels that are in the record (WEIR_LABELS)."""

    match_labels: dict[str, str] = {}
    match_expressions: list[Expression] = []


class End(_Strict, frozen=True):
    """One end of the connection: all that is given must fit the same end."""

    namespace: Words | None = None
    pod: Annotated[Words | None, Meta(description="NAME or NAMESPACE/NAME.")] = None
    workload: Annotated[Words | None, Meta(description="NAME or KIND/NAME, such as Deployment/web.")] = None
    labels: Labels | None = None
    cidr: Annotated[str | list[str] | None, Meta(description="The end's address is in one of these.")] = None
    node: Annotated[Words | None, Meta(description="The node that the end is, or is on.")] = None


class Match(_Strict, frozen=True):
    """All that is given must fit. Empty: every record."""

    verdict: Verdict | list[Verdict] | None = None
    direction: Direction | list[Direction] | None = None
    reason: Reason | list[Reason] | None = None
    protocol: Annotated[str | list[str] | None, Meta(description="tcp, udp, sctp, icmp, icmpv6, or a number.")] = None
    port: Annotated[
        Port | list[Port] | None, Meta(description="Destination port, or the one that was dialled; or a range.")
    ] = None
    policy: Annotated[
        Words | None, Meta(description="NAME or NAMESPACE/NAME of a policy that decided or that isolates.")
    ] = None
    node: Annotated[Words | None, Meta(description="The node that decided.")] = None
    service: Annotated[Words | None, Meta(description="NAME or NAMESPACE/NAME of the Service that was dialled.")] = None
    src: End | None = None
    dest: End | None = None
    subject: Annotated[End | None, Meta(description="The pod whose policy was judged.")] = None
    peer: Annotated[End | None, Meta(description="The other end.")] = None
    either: Annotated[End | None, Meta(description="One of the two.")] = None


class Kafka(_Strict, frozen=True):
    """A topic, written by the enricher. It is made where it is missing."""

    topic: Annotated[str, Meta(description="Its name; {namespace} stands for the namespace of the subject.")]
    namespaces: Annotated[
        Words | None, Meta(description="Namespaces that may have a topic. Required with {namespace}.")
    ] = None
    limit: Annotated[Positive, Meta(le=10_000, description="Most topics that {namespace} may make.")] = 100
    key: Annotated[
        Literal["pod", "namespace", "node", "none"] | None,
        Meta(description="pod: of the subject, NAMESPACE/NAME (default of record). node: default of lines."),
    ] = None
    format: Annotated[
        Literal["record", "lines"],
        Meta(description="One Kafka record a verdict, or JSON lines, one Kafka record a key and batch."),
    ] = "record"
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    partitions: Annotated[Positive, Meta(le=10_000, description="Of a topic that is made.")] = 8
    retention: Annotated[Age, Meta(description="Of a topic that is made.")] = "3d"


class File(_Strict, frozen=True):
    """JSON lines in a file that is rotated."""

    path: str | None = None
    preset: Annotated[Literal["gke"] | None, Meta(description="gke: path and rotation of GKE's policy logger.")] = None
    max_bytes: Positive = 10_000_000
    max_age: Annotated[Age | None, Meta(description="Rotate a file whose first record was written so long ago.")] = None
    keep: Annotated[int, Meta(ge=0, le=100_000, description="How many rotated files are kept.")] = 5
    gzip: Annotated[bool, Meta(description="Compress rotated files.")] = False


class Stdout(_Strict, frozen=True):
    """JSON lines on the standard output."""


class Otlp(_Strict, frozen=True):
    """OpenTelemetry logs, by OTLP over HTTP."""

    endpoint: Annotated[
        str, Meta(pattern=r"^https?://[^ ]+$", description="The whole URL, such as http://collector:4318/v1/logs.")
    ]
    headers: Annotated[
        dict[str, str], Meta(description="Header to the environment variable that has its value, so that none is here.")
    ] = {}
    timeout: Annotated[Age, Meta(description="For one request with its retries.")] = "10s"


class Events(_Strict, frozen=True):
    """Kubernetes Events on the subject pod. Allows make none."""

    every: Annotated[
        Age, Meta(description="Equal denies (pod, reason, other end, port) make one Event in so long a time.")
    ] = "10m"
    per_minute: Annotated[Positive, Meta(description="Most Events a minute, of this worker.")] = 60


class Output(_Strict, frozen=True):
    """Exactly one of them."""

    kafka: Kafka | None = None
    file: File | None = None
    stdout: Stdout | None = None
    otlp: Otlp | None = None
    events: Events | None = None

    @property
    def kind(self) -> str:
        """The name of the one that is set."""
        return next((name for name in self.__struct_fields__ if getattr(self, name) is not None), "")


class Route(_Strict, frozen=True, rename={"excluded": "except"}):
    """Records that fit ``match`` (one of, if there are several) and nothing of ``except`` go to all outputs."""

    name: RouteName
    outputs: Annotated[list[Output], Meta(min_length=1)]
    match: Match | list[Match] = Match()
    excluded: Match | list[Match] = []
    sample: Annotated[
        float,
        Meta(gt=0, le=1, description="Share of allowed connections; both ends' records of one, or neither's."),
    ] = 1.0


class Routes(_Strict, frozen=True):
    """The whole file."""

    version: Literal[1]
    routes: Annotated[list[Route], Meta(max_length=64)] = []


GKE_PATH: Final = "/var/log/network/policy_action.log"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def listed(given: T | list[T] | None) -> list[T]:
    """One or several as a list; none for nothing."""
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


def seconds(age: str) -> int:
    """``90s``, ``5m``, ``2h``, ``3d``."""
    return int(age[:-1]) * _SECONDS[age[-1]]


def schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    made = msgspec.json.schema(Routes)
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:kubeweir:routes:1",
        "title": "Routes of kubeweir",
    }
    return {**about, **made}
