"""Label selectors (``metav1.LabelSelector``): "The requirements are ANDed. An empty label selector matches all"."""

from __future__ import annotations

from enrich.model import Labels, Operator, Requirement, Selector


def matches(selector: Selector, labels: Labels) -> bool:
    """Whether every requirement holds."""
    return all(holds(requirement, labels) for requirement in selector.requirements)


def holds(requirement: Requirement, labels: Labels) -> bool:
    """One requirement. NotIn and DoesNotExist hold for labels without the key (apimachinery, labels.Requirement)."""
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
