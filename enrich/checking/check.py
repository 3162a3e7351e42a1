"""Checks the policies of a repository: everything that is wrong in the files, and every finding about what they say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from enrich.checking.dns import egress_without_dns
from enrich.checking.finding import (
    DUPLICATE,
    INVALID,
    NOT_RENDERED,
    REDUNDANT_RULE,
    SHADOWED_RULE,
    UNKNOWN_FIELD,
    UNREADABLE,
    Checked,
    CheckRule,
    Finding,
)
from enrich.checking.ports import ports_that_no_container_has
from enrich.checking.selecting import selectors_that_match_nothing
from enrich.explain.accounts import display_name
from enrich.history.advice.usage import RuleUse, usage
from enrich.history.profile import profile_of
from enrich.model import Name, NetworkPolicy, Pod, Policy
from enrich.sources.manifest_documents import Sort
from enrich.sources.repository import Repository
from enrich.sources.repository_cluster import deliver
from enrich.wire.references import PolicyRef

_SORTS: Final[Mapping[Sort, CheckRule]] = {
    "unreadable": UNREADABLE,
    "invalid": INVALID,
    "unknown field": UNKNOWN_FIELD,
    "duplicate": DUPLICATE,
}


def check(repository: Repository) -> list[Finding]:
    """Return all findings, by file, line and rule."""
    found = [Finding(_SORTS[one.sort], one.place, "", one.text, "", one.namespace) for one in repository.problems]
    found += (Finding(NOT_RENDERED, place, "", text, todo) for place, text, todo in repository.unrendered)
    checked = _checked(repository)
    found += selectors_that_match_nothing(checked)
    found += ports_that_no_container_has(checked)
    found += egress_without_dns(checked)
    found += _rules_without_effect(checked)
    return sorted(found, key=lambda one: (one.place.file, one.place.line, one.place.document, one.rule.id, one.text))


def _checked(repository: Repository) -> Checked:
    delivered = deliver(repository)
    by_namespace: dict[str, list[Pod]] = defaultdict(list)
    for pod in delivered.pods.values():
        by_namespace[pod.namespace].append(pod)
    pods = {namespace: tuple(found) for namespace, found in by_namespace.items()}
    view, policies = delivered.view(), defaultdict[str, dict[Name, NetworkPolicy]](dict)
    for name, policy in view.policies.items():
        policies[name.namespace][name] = policy
    views = {namespace: replace(view, policies=found) for namespace, found in policies.items()}
    return Checked(repository, delivered, view, pods, views)


def _rules_without_effect(checked: Checked) -> Iterator[Finding]:
    """Yield rules that another rule makes superfluous, by the proof that `weir policies` has."""
    profiles = {pod.uid: profile_of(pod, pod.owner, ()) for pod in checked.delivered.pods.values()}
    for use in usage(checked.view, profiles, (), lambda *_: (), 0):
        for rule in use.rules:
            if rule.by is not None and rule.state in ("shadowed", "adds nothing"):
                yield _without_effect(checked, use.policy, rule, rule.by)


def _without_effect(checked: Checked, policy: Policy, rule: RuleUse, by: PolicyRef) -> Finding:
    other = checked.repository.written[by.kind, by.namespace, by.name]
    direction = rule.direction.name.lower()
    place = other.at(f"spec.{direction}[{by.rule}]")
    named = f"rule {by.rule} of {display_name(by)} ({place.file_and_line})"
    path = f"spec.{direction}[{rule.index}]"
    if rule.state == "shadowed":
        text = f"{named} always decides before, so this rule never does"
        todo = "delete this rule, or put it before the other one (by its order or the policy's priority)"
        return checked.finding(SHADOWED_RULE, policy, path, text, todo)
    return checked.finding(REDUNDANT_RULE, policy, path, f"{named} always allows the same", "delete this rule")
