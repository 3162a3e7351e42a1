"""The file of alert rules as values. ``streams/schemas/alerts.schema.json`` is made from these types; a test compares
the two.

What a type cannot say is checked in :mod:`streams.alerts.check`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from streams.config.fields import Duration as Age
from streams.config.fields import EntryName as RouteName
from streams.config.fields import Positive
from streams.matching.model import Match

Severity = Literal["info", "warning", "critical"]
Wait = Annotated[str, Meta(pattern=r"^[0-9]{1,6}[smhd]$", description="A number and s, m, h or d; 0s for none.")]
LabelName = Annotated[str, Meta(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]
Template = Annotated[str, Meta(max_length=4096)]
KINDS: Final = ("above", "first", "after_change")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A mistyped field is a mistake, not a default."""


class Above(_Strict, frozen=True, rename={"hold": "for"}):
    """So many within a sliding window of the records' own time."""

    threshold: Annotated[Positive, Meta(le=1_000_000_000)]
    window: Age = "1m"
    count: Annotated[
        Literal["attempts", "records"],
        Meta(description="attempts: packets of denied connections, as the records' count says. Of losses: rows."),
    ] = "attempts"
    distinct: Annotated[
        list[str], Meta(max_length=4, description="Count how many different values these fields have together.")
    ] = []
    hold: Annotated[Wait, Meta(description="Fire when it has been so for that long.")] = "0s"


class First(_Strict, frozen=True):
    """The group was never seen before."""

    remember: Annotated[Age, Meta(description="A group that is not seen for so long is forgotten.")] = "30d"
    fresh: Annotated[Age, Meta(description="Records older than that make a group known, and fire nothing.")] = "5m"


class AfterChange(_Strict, frozen=True):
    """The group's records began right after a policy changed that names them, or that named them before."""

    within: Annotated[Age, Meta(description="So soon after the change.")] = "2m"
    quiet: Annotated[Age, Meta(description="They began: there was none for that long before.")] = "10m"
    threshold: Positive = 1


class Rule(_Strict, frozen=True, rename={"excluded": "except"}):
    """One rule. An alert is a rule and the values of ``group_by``."""

    name: RouteName
    of: Annotated[
        Literal["denied", "lost"],
        Meta(
            description="denied: records of denied and audited connections. lost: what the pipeline says it has lost."
        ),
    ] = "denied"
    match: Match | list[Match] = Match()
    excluded: Match | list[Match] = []
    group_by: Annotated[list[str], Meta(max_length=12, description="The cluster is always one of them.")] = []
    above: Above | None = None
    first: First | None = None
    after_change: AfterChange | None = None
    resolve_after: Annotated[Wait, Meta(description="Resolved when it has not been so for that long.")] = "5m"
    severity: Severity = "warning"
    labels: dict[LabelName, Template] = {}
    annotations: dict[LabelName, Template] = {}

    @property
    def kind(self) -> str:
        """The name of the one condition that is set."""
        return next((name for name in KINDS if getattr(self, name) is not None), "")

    @property
    def fields(self) -> tuple[str, ...]:
        """What its groups are made of."""
        return ("cluster", *(name for name in self.group_by if name != "cluster"))


class Alertmanager(_Strict, frozen=True):
    """Alertmanager's API v2. Several of one cluster are an output each."""

    url: Annotated[str, Meta(pattern=r"^https?://[^ ]+$", description="Without /api/v2, such as http://am:9093.")]
    resend: Annotated[Age, Meta(description="A firing alert is told again so often.")] = "1m"
    headers: Annotated[
        dict[str, str], Meta(description="Header to the environment variable that has its value, so that none is here.")
    ] = {}
    timeout: Age = "10s"


class Webhook(_Strict, frozen=True):
    """POST of a JSON array of alerts, as they are on the topic; any answer of 200 to 299 takes them."""

    url: Annotated[str, Meta(pattern=r"^https?://[^ ]+$")]
    headers: Annotated[dict[str, str], Meta(description="As of alertmanager.")] = {}
    timeout: Age = "10s"


class Output(_Strict, frozen=True):
    """Exactly one far end. Its name is its consumer group's."""

    name: RouteName
    alertmanager: Alertmanager | None = None
    webhook: Webhook | None = None


class Alerts(_Strict, frozen=True):
    """The whole file."""

    version: Literal[1]
    rules: Annotated[
        list[Rule], Meta(max_length=64, description="One with the name of a built-in rule takes its place.")
    ] = []
    disable: Annotated[list[RouteName], Meta(description="Built-in rules that are not wanted.")] = []
    outputs: Annotated[list[Output], Meta(max_length=16)] = []


def schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    made = msgspec.json.schema(Alerts)
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:kubeweir:alerts:1",
        "title": "Alert rules of kubeweir",
    }
    return {**about, **made}
