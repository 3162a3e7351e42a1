"""A finding, the rules that make findings, and what is known of the files that are checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from enrich.label_selector import Selector
from enrich.model import Pod, Policy
from enrich.policy import selectors
from enrich.policy.matching import PolicyView
from enrich.sources.manifest_documents import Place
from enrich.sources.repository import Key, Repository
from enrich.sources.repository_cluster import Delivered

_MAX_NAMED: Final = 3
Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class CheckRule:
    """Something that can be found."""

    id: str
    level: Level
    text: str
    """What is found, in a sentence."""


UNREADABLE: Final = CheckRule("unreadable", "error", "A file cannot be read, or is not YAML.")
INVALID: Final = CheckRule("invalid", "error", "The API server would refuse the object, or its kind is mistyped.")
UNKNOWN_FIELD: Final = CheckRule("unknown-field", "error", "The kind has no such field: the API server may drop it.")
DUPLICATE: Final = CheckRule("duplicate", "error", "A key, or an object, is there twice: only the last one counts.")
TEMPLATE_SELECTOR: Final = CheckRule(
    "template-selector", "error", "A workload does not select the pods of its own template: the API server refuses it."
)
POLICY_SELECTS_NOTHING: Final = CheckRule(
    "policy-selects-nothing", "error", "No pod has the labels that a policy selects."
)
PEER_MATCHES_NOTHING: Final = CheckRule(
    "peer-matches-nothing", "warning", "No pod or namespace has the labels that a peer of a rule asks for."
)
SERVICE_SELECTS_NOTHING: Final = CheckRule(
    "service-selects-nothing", "warning", "No pod has the labels that a Service selects."
)
UNKNOWN_PORT_NAME: Final = CheckRule(
    "unknown-port-name", "error", "No container that a rule is about has a port of this name."
)
UNDECLARED_PORT: Final = CheckRule(
    "undeclared-port", "warning", "The containers that a rule is about declare ports, and not this one."
)
EGRESS_WITHOUT_DNS: Final = CheckRule(
    "egress-without-dns", "error", "Pods may connect to something, but no policy lets them resolve names."
)
CLOSED_WITHOUT_DNS: Final = CheckRule(
    "closed-without-dns", "warning", "Pods may connect to nothing at all, not even to resolve names."
)
SHADOWED_RULE: Final = CheckRule("shadowed-rule", "warning", "Another rule always decides before a rule.")
REDUNDANT_RULE: Final = CheckRule("redundant-rule", "warning", "Another rule always allows the same.")
NOT_RENDERED: Final = CheckRule(
    "not-rendered", "warning", "Helm or kustomize would make other objects than the files have."
)
RULES: Final = (
    UNREADABLE, INVALID, UNKNOWN_FIELD, DUPLICATE, TEMPLATE_SELECTOR, POLICY_SELECTS_NOTHING, PEER_MATCHES_NOTHING,
    SERVICE_SELECTS_NOTHING, UNKNOWN_PORT_NAME, UNDECLARED_PORT, EGRESS_WITHOUT_DNS, CLOSED_WITHOUT_DNS, SHADOWED_RULE,
    REDUNDANT_RULE, NOT_RENDERED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, where, and what to do."""

    rule: CheckRule
    place: Place
    subject: str
    """The object that it is about, as ``NetworkPolicy shop/db``; empty if it is about a file."""
    text: str
    todo: str = ""
    namespace: str | None = None
    """That of the object, empty if it belongs to the whole cluster; None: the finding is about a file, or an object
    whose namespace is not known."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The files that are checked, and the cluster that they would be delivered into."""

    repository: Repository
    delivered: Delivered
    view: PolicyView
    by_namespace: Mapping[str, tuple[Pod, ...]]
    """The pods of each namespace that has some in the files."""
    views: Mapping[str, PolicyView]
    """For each namespace that has NetworkPolicies, the cluster with only these of them. Those of others never matter
    there, and there may be thousands."""
    _found: dict[Selector, list[str]] = field(default_factory=dict)
    """What :meth:`namespaces_with` has found: the same selectors are in many namespaces."""

    def finding(self, rule: CheckRule, policy: Policy, path: str, text: str, todo: str) -> Finding:
        """Return a finding about a field of a policy."""
        place = self.repository.written[key_of(policy)].at(path)
        return Finding(
            rule, place, f"{type(policy).__name__} {policy.key}", f"{path}: {text}", todo, policy.key.namespace
        )

    def pods_in(self, namespaces: Iterable[str]) -> tuple[Pod, ...] | None:
        """Return the pods of namespaces; None unless each has some in the files, and no others are to be expected."""
        found: list[Pod] = []
        if self.repository.unsure_everywhere:
            return None
        for one in namespaces:
            if one not in self.by_namespace or one in self.repository.unsure:
                return None
            found += self.by_namespace[one]
        return tuple(found)

    def namespaces_with(self, selector: Selector) -> list[str]:
        """Return the namespaces that have a pod which a selector matches, by name."""
        if selector not in self._found:
            pods = self.delivered.pods.values()
            self._found[selector] = sorted({one.namespace for one in pods if selectors.matches(selector, one.labels)})
        return self._found[selector]

    def stands_for(self, pods: Iterable[Pod]) -> str:
        """Return what some pods stand for, as far as fits a line."""
        named = sorted({self.delivered.stands_for(pod.key) for pod in pods})
        more = len(named) - _MAX_NAMED
        return ", ".join(named[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def key_of(policy: Policy) -> Key:
    """Return the key of a policy among what is written."""
    return type(policy).__name__, *policy.key
