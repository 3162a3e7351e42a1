"""``match`` and ``except`` as values: the conditions that routes and alert rules put on a record.

The schemas of both files are made from these types. :mod:`streams.matching.check` finds what a type cannot say, such as
a network that is not one.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

Patterns = str | list[str]
"""One pattern or several, of which any may fit. ``*`` stands for any text."""
Verdict = Literal["allow", "deny", "audit"]
Direction = Literal["ingress", "egress"]
Reason = Literal[
    "unknown", "no_policy", "policy", "default_deny", "explicit_deny", "node", "self", "spoofed", "unparsable",
    "fragment", "not_ready", "adopted", "forbidden_nd", "map_full", "no_origin",
    "encapsulation", "unknown_flow", "policy_incomplete",
]  # fmt: skip
Port = Annotated[int, Meta(ge=0, le=65535)] | Annotated[str, Meta(pattern=r"^[0-9]{1,5}-[0-9]{1,5}$")]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the file. An unknown field is a mistake, because a mistyped name must not mean the default."""


class Expression(_Strict, frozen=True):
    """One entry of matchExpressions, as in a Kubernetes label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []


class Labels(_Strict, frozen=True, rename="camel"):
    """A label selector as in Kubernetes. It sees the labels that the record has, which WEIR_LABELS chooses."""

    match_labels: dict[str, str] = {}
    match_expressions: list[Expression] = []


class EndMatch(_Strict, frozen=True):
    """Conditions on one end of the connection. All that are given must fit the same end."""

    namespace: Patterns | None = None
    pod: Annotated[Patterns | None, Meta(description="NAME or NAMESPACE/NAME of the pod.")] = None
    workload: Annotated[
        Patterns | None, Meta(description="NAME or KIND/NAME of what runs the pod, such as Deployment/web.")
    ] = None
    labels: Labels | None = None
    cidr: Annotated[
        str | list[str] | None, Meta(description="A network, or several; the address of the end is in one of them.")
    ] = None
    node: Annotated[Patterns | None, Meta(description="The node that the end is, or that the pod runs on.")] = None


class Match(_Strict, frozen=True):
    """Conditions on a record. All that are given must fit; an empty match fits every record."""

    verdict: Verdict | list[Verdict] | None = None
    direction: Direction | list[Direction] | None = None
    reason: Reason | list[Reason] | None = None
    protocol: Annotated[
        str | list[str] | None, Meta(description="tcp, udp, sctp, icmp, icmpv6, or an IANA protocol number.")
    ] = None
    port: Annotated[
        Port | list[Port] | None,
        Meta(description="A port, or a range such as 8000-8080; fits the destination port or the dialled port."),
    ] = None
    policy: Annotated[
        Patterns | None,
        Meta(description="NAME or NAMESPACE/NAME of a policy that decided, or that isolates the pod."),
    ] = None
    node: Annotated[Patterns | None, Meta(description="The node that decided.")] = None
    service: Annotated[Patterns | None, Meta(description="NAME or NAMESPACE/NAME of the Service that was dialled.")] = (
        None
    )
    src: Annotated[EndMatch | None, Meta(description="The end that the packets came from.")] = None
    dest: Annotated[EndMatch | None, Meta(description="The end that the packets went to.")] = None
    subject: Annotated[EndMatch | None, Meta(description="The pod whose policy decided.")] = None
    peer: Annotated[EndMatch | None, Meta(description="The other end.")] = None
    either: Annotated[EndMatch | None, Meta(description="The subject or the peer.")] = None


def as_list(given: T | list[T] | None) -> list[T]:
    """Return one value or several as a list; an empty list for None."""
    if given is None:
        return []
    return given if isinstance(given, list) else [given]
