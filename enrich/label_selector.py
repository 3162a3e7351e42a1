"""Label selectors, as policies and other objects of the API write them. They are frozen and hashable."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""The API server gives each namespace this label with its name."""


class Operator(enum.Enum):
    """The operators of ``LabelSelectorRequirement.operator``."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One element of ``matchExpressions``."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """A LabelSelector. ``matchLabels`` become requirements ``In`` with one value. An empty one matches everything."""

    requirements: tuple[Requirement, ...] = ()


def namespace_selector(name: str) -> Selector:
    """Return the selector that selects the namespace of a name only."""
    return Selector((Requirement(NAMESPACE_LABEL, Operator.IN, (name,)),))
