"""Parses what runs pods (a Deployment, a CronJob) for the pods that it will run: their labels and ports.

A cluster is never read with it, because a cluster has the pods themselves. Files in a repository have only the
templates of pods. They are read strictly, and with every mistake at once, as :mod:`enrich.parse.manifest` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from enrich.label_selector import Selector
from enrich.model import Labels, Name, NamedPort, Owner
from enrich.parse.cursor import Field, InvalidObjectError
from enrich.parse.known_fields import unknown_fields
from enrich.parse.metadata import labels_of, namespace_of, owner_of
from enrich.parse.network_policy import read_selector
from enrich.parse.objects import container_ports

TEMPLATE_VERSIONS: Final[Mapping[str, str]] = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
}
"""The kinds that have a template of pods, with the version that is read."""


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """The pods that an object runs."""

    kind: str
    """Kind of the object, and below its name."""
    name: Name
    labels: Labels
    ports: tuple[NamedPort, ...]
    """All ports of its containers; the name of one that has none is empty."""
    host_network: bool
    owner: Owner | None
    """What controls the object, such as the Deployment of a ReplicaSet."""
    selector: Selector
    """By which the object finds its pods. The API refuses the object if the labels do not match."""


def read_template(document: Mapping[str, Any]) -> tuple[PodTemplate | None, list[InvalidObjectError]]:
    """Return the pods of an object of one of :data:`TEMPLATE_VERSIONS`, and every mistake in it. With a mistake that is
    more than an unknown field, the template is None; it is also None for an object without a template."""
    mistakes: list[InvalidObjectError] = []
    root, made = Field("", document, mistakes, exhaustive=True), None
    kind = str(document.get("kind"))
    try:
        if root["apiVersion"].text() != TEMPLATE_VERSIONS[kind]:
            root["apiVersion"].refuse(f"{kind} must be {TEMPLATE_VERSIONS[kind]}, is {root['apiVersion'].value}")
        made = _template(root, kind)
    except InvalidObjectError as error:
        mistakes.append(error)
    unknown = unknown_fields(document, kind)
    return None if mistakes else made, [*unknown, *mistakes]


def _template(root: Field, kind: str) -> PodTemplate | None:
    spec = root["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else root["spec"]
    template = spec["template"]
    name = Name(namespace_of(root), root["metadata"]["name"].name())
    if not template.is_set and kind in ("ReplicaSet", "Job"):
        # A manifest that only says who owns the pods beside it.
        return None
    labels, pod = labels_of(template), template["spec"]
    if not pod["containers"].is_set:
        pod["containers"].refuse("is required")
    # Jobs get a selector from the API server.
    has_selector = kind not in ("Job", "CronJob") and spec["selector"].is_set
    selector = read_selector(spec["selector"]) if has_selector else Selector()
    ports = tuple(container_ports(pod))
    return PodTemplate(kind, name, labels, ports, pod["hostNetwork"].boolean(), owner_of(root), selector)
