"""Parses ``metadata`` of the API's objects: name, UID, labels, owner, and whether the object is audited."""

from __future__ import annotations

import sys
import uuid
from typing import Any, Final

from enrich.model import Owner
from enrich.parse.cursor import Field

MODE: Final = "kubeweir.io/mode"
"""Annotation of a NetworkPolicy, a ClusterNetworkPolicy or a Namespace: ``audit``, or ``enforce``, the default."""
LOGGING: Final = "policy.network.gke.io/enable-logging"
"""Annotation of a policy of any kind, of GKE: ``true`` asks for its allowed connections to be logged."""
DENY_LOGGING: Final = "policy.network.gke.io/enable-deny-logging"
"""Annotation of a Namespace, of GKE: ``true`` asks for what is denied to its pods to be logged."""
_MAX_CHARACTERS: Final = 64
"""So much of the value of an annotation is kept, to be shown."""
_UIDS: Final = uuid.UUID("8c0b5f0e-3a55-5d0e-9a3c-6b7765697200")


def namespace_of(root: Field) -> str:
    """Read ``metadata.namespace``; "default" if there is none."""
    field = root["metadata"]["namespace"]
    return field.name() if field.is_set else "default"


def uid_of(root: Field, namespace: str) -> str:
    """Read the UID. A manifest has none; then make one from kind and name, so that it is the same each time."""
    given = root["metadata"]["uid"].text("")
    kind, name = root["kind"].value, root["metadata"]["name"].value
    return given or str(uuid.uuid5(_UIDS, f"{kind}/{namespace}/{name}"))


def labels_of(root: Field) -> dict[str, str]:
    """Read ``metadata.labels``. Keys and values are interned, because thousands of objects share them."""
    labels = root["metadata"]["labels"].labels()
    return {sys.intern(key): sys.intern(value) for key, value in labels.items()}


def owner_of(root: Field) -> Owner | None:
    """Read the controller among ``metadata.ownerReferences``."""
    for reference in root["metadata"]["ownerReferences"].items():
        if reference["controller"].boolean():
            return Owner(reference["kind"].text(), reference["name"].text(), reference["uid"].text(""))
    return None


def is_audited(root: Field) -> bool:
    """Whether the mode is ``audit``. Any word but that and ``enforce`` is an error, because it may be a misspelt
    one."""
    annotations = root["metadata"]["annotations"]
    mode = annotations[MODE]
    named = annotations.at(f"{annotations.path}[{MODE}]", mode.value)
    return named.attempt(lambda field: field.choice("enforce", "audit", default="enforce")) == "audit"


def annotation_of(root: Field, name: str) -> str | None:
    """Read an annotation, as far as it is worth quoting; None if the object does not have it."""
    annotations = root["metadata"]["annotations"]
    named = annotations.at(f"{annotations.path}[{name}]", annotations[name].value)
    text = named.attempt(Field.text) if named.is_set else None
    return None if text is None else sys.intern(text[:_MAX_CHARACTERS])


def with_known_mode(item: dict[str, Any]) -> dict[str, Any]:
    """Return the object without an unknown mode, so that it is enforced: a typing error must not open anything."""
    meta = item.get("metadata") or {}
    annotations = meta.get("annotations")
    if not isinstance(annotations, dict) or annotations.get(MODE) in (None, "audit", "enforce"):
        return item
    known = {key: value for key, value in annotations.items() if key != MODE}
    return {**item, "metadata": {**meta, "annotations": known}}
