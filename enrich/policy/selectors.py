"""Label selectors (``metav1.LabelSelector``): "The requirements are ANDed. An empty label selector matches all"."""

from __future__ import annotations

from enrich.label_selector import Operator, Requirement, Selector
from enrich.model import Labels


def matches(selector: Selector, labels: Labels) -> bool:
    """Return whether the labels meet every requirement."""
    return all(requirement_matches(requirement, labels) for requirement in selector.requirements)


def requirement_matches(requirement: Requirement, labels: Labels) -> bool:
    """Return whether the labels meet one requirement.

    NotIn and DoesNotExist are met by labels without the key (``labels.Requirement`` in apimachinery).
    """
    value = labels.get(requirement.key)
    match requirement.operator:
        case Operator.IN:
            return value in requirement.values
        case Operator.NOT_IN:
            return value not in requirement.values
        case Operator.EXISTS:
            return value is not None
        case Operator.DOES_NOT_EXIST:
            return value is None
