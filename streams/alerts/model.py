"""The types of a file of alert rules.

``streams/schemas/alerts.schema.json`` is generated from these types, and a test compares the two. Rules that a type
cannot express, such as fields that exclude each other, are checked in :mod:`streams.alerts.check`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from streams.config.fields import Duration, EntryName, Positive
from streams.config.http_target import HttpTarget, Url, UrlFile, UrlVariable
from streams.matching.model import Match

Severity = Literal["info", "warning", "critical"]
Wait = Annotated[
    str, Meta(pattern=r"^[0-9]{1,6}[smhd]$", description="A number and s, m, h or d; 0s means no waiting time.")
]
LabelName = Annotated[str, Meta(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]
Template = Annotated[str, Meta(max_length=4096)]
KINDS: Final = ("above", "first", "after_change")
"""The conditions that a rule can have, by field name. :mod:`streams.alerts.engine` has a tracker for each."""
OUTPUT_KINDS: Final = ("alertmanager", "webhook")
"""The kinds of outputs, by field name. :mod:`streams.alerts.outputs` has a maker for each."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Refuses unknown fields, so that a mistyped field is an error rather than a default."""


class Threshold(_Strict, frozen=True, rename={"hold": "for"}):
    """Fires when the count within a sliding window reaches the threshold. Time is the records' own time."""

    threshold: Annotated[Positive, Meta(le=1_000_000_000)]
    window: Duration = "1m"
    count: Annotated[
        Literal["attempts", "records"],
        Meta(
            description="attempts: denied packets, the sum of the records' count field; for losses, lost verdicts. "
            "records: the number of records."
        ),
    ] = "attempts"
    distinct: Annotated[
        list[str],
        Meta(max_length=4, description="Count how many different combinations of these fields there are, instead."),
    ] = []
    hold: Annotated[Wait, Meta(description="Fire only after the condition has held continuously for this long.")] = "0s"


class FirstSeen(_Strict, frozen=True):
    """Fires when a group appears that was never seen before."""

    remember: Annotated[Duration, Meta(description="A group that does not appear for this long is forgotten.")] = "30d"
    fresh: Annotated[
        Duration, Meta(description="Records older than this make a group known without firing an alert.")
    ] = "5m"


class AfterChange(_Strict, frozen=True):
    """Fires when a group's records begin shortly after a change of a policy that can have caused them.

    A policy can have caused them if the records name it, or if it no longer applies to the pod but did before."""

    within: Annotated[Duration, Meta(description="The records begin at most this long after the change.")] = "2m"
    quiet: Annotated[
        Duration, Meta(description="The group had no records for at least this long before they began.")
    ] = "10m"
    threshold: Positive = 1


class AlertRule(_Strict, frozen=True, rename={"excluded": "except"}):
    """One rule with exactly one of the conditions above, first and after_change.

    Each combination of values of ``group_by`` is an alert of its own; for after_change, each change of a policy is, and
    lists the combinations."""

    name: EntryName
    of: Annotated[
        Literal["denied", "lost"],
        Meta(description="denied: records of denied and audited connections. lost: losses that the pipeline reports."),
    ] = "denied"
    match: Match | list[Match] = Match()
    excluded: Match | list[Match] = []
    group_by: Annotated[
        list[str], Meta(max_length=12, description="The fields that make a group. The cluster is always one of them.")
    ] = []
    above: Threshold | None = None
    first: FirstSeen | None = None
    after_change: AfterChange | None = None
    resolve_after: Annotated[
        Wait, Meta(description="A firing alert is resolved when its condition has not held for this long.")
    ] = "5m"
    severity: Severity = "warning"
    labels: dict[LabelName, Template] = {}
    annotations: dict[LabelName, Template] = {}

    @property
    def kind(self) -> str:
        """The name of the condition that is set, one of :data:`KINDS`."""
        return next((name for name in KINDS if getattr(self, name) is not None), "")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that make a group: the cluster, then ``group_by``."""
        return ("cluster", *(name for name in self.group_by if name != "cluster"))


class AlertmanagerOutput(HttpTarget, frozen=True):
    """Alertmanager's API v2. Each member of an Alertmanager cluster needs an output of its own."""

    url: Annotated[Url | None, Meta(description="The base URL without /api/v2, such as http://am:9093.")] = None
    url_env: UrlVariable | None = None
    url_file: UrlFile | None = None
    resend: Annotated[Duration, Meta(description="How often a firing alert is sent again.")] = "1m"
    timeout: Duration = "10s"


class WebhookOutput(HttpTarget, frozen=True):
    """POSTs a JSON array of alert records as they are on the topic. Any answer from 200 to 299 accepts them."""

    url: Url | None = None
    url_env: UrlVariable | None = None
    url_file: UrlFile | None = None
    timeout: Duration = "10s"


class AlertOutput(_Strict, frozen=True):
    """A destination of alerts: exactly one of alertmanager and webhook. Its name is part of its consumer group."""

    name: EntryName
    alertmanager: AlertmanagerOutput | None = None
    webhook: WebhookOutput | None = None

    @property
    def kind(self) -> str:
        """The name of the destination that is set, one of :data:`OUTPUT_KINDS`."""
        return next((name for name in OUTPUT_KINDS if getattr(self, name) is not None), "")


class Alerts(_Strict, frozen=True):
    """The content of an alerts file."""

    version: Literal[1]
    rules: Annotated[
        list[AlertRule], Meta(max_length=64, description="A rule with the name of a built-in rule replaces it.")
    ] = []
    disable: Annotated[list[EntryName], Meta(description="Names of built-in rules to switch off.")] = []
    outputs: Annotated[list[AlertOutput], Meta(max_length=16)] = []


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    made = msgspec.json.schema(Alerts)
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:kubeweir:alerts:1",
        "title": "Alert rules of kubeweir",
    }
    return {**about, **made}
