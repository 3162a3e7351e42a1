"""``metadata`` of the API's objects: what they are called, their labels, their owner, and whether they are audited."""

from __future__ import annotations

import sys
import uuid
from typing import Any, Final

from enrich.model import Owner
from enrich.parse.cursor import Field

MODE: Final = "kubeweir.io/mode"
"""Annotation of a NetworkPolicy, a ClusterNetworkPolicy or a Namespace: ``audit``, or ``enforce`` as without it."""
_UIDS: Final = uuid.UUID("8c0b5f0e-3a55-5d0e-9a3c-6b7765697200")


def namespace_of(root: Field) -> str:
    """``metadata.namespace``, "default" where there is none."""
    field = root["metadata"]["namespace"]
    return field.name() if field.is_set else "default"


def uid_of(root: Field, namespace: str) -> str:
    """Of an object from a manifest, which has none: one that is the same each time."""
    given = root["metadata"]["uid"].text("")
    kind, name = root["kind"].value, root["metadata"]["name"].value
    return given or str(uuid.uuid5(_UIDS, f"{kind}/{namespace}/{name}"))


def labels_of(root: Field) -> dict[str, str]:
    """``metadata.labels``. Keys and values recur by the thousand: interned, they are one object each."""
    labels = root["metadata"]["labels"].labels()
    return {sys.intern(key): sys.intern(value) for key, value in labels.items()}


def owner_of(root: Field) -> Owner | None:
    """The controller among ``metadata.ownerReferences``."""
    for reference in root["metadata"]["ownerReferences"].items():
        if reference["controller"].boolean():
            return Owner(reference["kind"].text(), reference["name"].text(), reference["uid"].text(""))
    return None


def is_audited(root: Field) -> bool:
    """Whether the mode says ``audit``. Any other word than that and ``enforce`` is a mistake that must be told."""
    annotations = root["metadata"]["annotations"]
    mode = annotations[MODE]
    return Field(f"{annotations.path}[{MODE}]", mode.value).choice("enforce", "audit", default="enforce") == "audit"


def with_known_mode(item: dict[str, Any]) -> dict[str, Any]:
    """The object, enforced where its mode is one that we do not know: a slip of the pen opens and closes nothing."""
    meta = item.get("metadata") or {}
    annotations = meta.get("annotations")
    if not isinstance(annotations, dict) or annotations.get(MODE) in (None, "audit", "enforce"):
        return item
    known = {key: value for key, value in annotations.items() if key != MODE}
    return {**item, "metadata": {**meta, "annotations": known}}
