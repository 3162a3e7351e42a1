"""Finds selectors that match no pod and no namespace: of policies, of the peers in their rules, and of Services.

A repository is seldom the whole cluster. So it is only said where the files have pods of the namespace, and not where a
mistake or an operator hides some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from enrich.checking.finding import (
    PEER_MATCHES_NOTHING,
    POLICY_SELECTS_NOTHING,
    SERVICE_SELECTS_NOTHING,
    TEMPLATE_SELECTOR,
    Checked,
    Finding,
)
from enrich.explain.mismatch import selector_text
from enrich.history.advice.usage import does_select, rules_of
from enrich.history.profile import is_left_out
from enrich.label_selector import NAMESPACE_LABEL, Operator, Requirement, Selector
from enrich.model import ClusterNetworkPolicy, Labels, NetworkPolicy, Peer, Policy
from enrich.parse.spelling import nearest
from enrich.policy import selectors
from enrich.policy.matching import Direction, namespace_matches

_MOST_VALUES: Final = 5
_FIELDS: Final = {Direction.INGRESS: ("ingress", "from"), Direction.EGRESS: ("egress", "to")}


def selectors_that_match_nothing(checked: Checked) -> Iterator[Finding]:
    """Yield the findings of all policies, Services and workloads."""
    for policy in checked.view.all_policies():
        yield from _policy(checked, policy)
        for direction in Direction:
            yield from _peers(checked, policy, direction)
    yield from _services(checked)
    yield from _templates(checked)


def _policy(checked: Checked, policy: Policy) -> Iterator[Finding]:
    pods = checked.pods_in(_namespaces_of(checked, policy))
    if not pods or asks_for_given_labels(policy.pods) or any(does_select(checked.view, policy, pod) for pod in pods):
        return
    path = "spec.podSelector" if isinstance(policy, NetworkPolicy) else "spec.subject"
    if any(selectors.matches(policy.pods, pod.labels) for pod in pods):
        text = "it selects only pods of the host's network, which no policy applies to"
        yield checked.finding(POLICY_SELECTS_NOTHING, policy, path, text, "delete the policy, or hostNetwork")
        return
    where = f"namespace {policy.namespace}" if isinstance(policy, NetworkPolicy) else "the namespaces that it selects"
    text = f"no pod of {where} has {selector_text(policy.pods)}, so the policy does nothing"
    todo = advice(policy.pods, [pod.labels for pod in pods]) or "correct the labels, or delete the policy"
    yield checked.finding(POLICY_SELECTS_NOTHING, policy, path, text, todo)


def _namespaces_of(checked: Checked, policy: Policy) -> list[str]:
    if isinstance(policy, ClusterNetworkPolicy):
        return matched_namespaces(checked, policy.namespaces)
    return [policy.namespace]


def matched_namespaces(checked: Checked, selector: Selector) -> list[str]:
    """Return the namespaces of the files that a selector selects. The API server's own are among them."""
    names = (name.name for name in checked.view.namespaces)
    return [name for name in names if namespace_matches(checked.view, selector, name)]


def asks_for_given_labels(selector: Selector) -> bool:
    """Return whether a selector asks for a label that a controller gives to pods, and that no template has."""
    return any(is_left_out(one.key) for one in selector.requirements)


# --- peers


def _peers(checked: Checked, policy: Policy, direction: Direction) -> Iterator[Finding]:
    rules_field, peers_field = _FIELDS[direction]
    for number, rule in enumerate(rules_of(policy, direction)):
        for index, peer in enumerate(rule.peers):
            # The parser makes one peer of each CIDR in a ClusterNetworkPolicy's `networks`, so its peers move.
            place = f"[{index}]" if isinstance(policy, NetworkPolicy) else ""
            path = f"spec.{rules_field}[{number}].{peers_field}{place}"
            found = _peer(checked, policy, peer)
            if found is not None:
                yield checked.finding(PEER_MATCHES_NOTHING, policy, path, *found)


def _peer(checked: Checked, policy: Policy, peer: Peer) -> tuple[str, str] | None:
    """Return what is wrong with a peer, and what to do; None if it matches something, or if that is not known."""
    if peer.ip_block is not None or peer.nodes is not None:
        return None
    namespaces = [policy.key.namespace]
    if peer.namespaces is not None:
        namespaces = matched_namespaces(checked, peer.namespaces)
        if not namespaces:
            return _namespaces(checked, peer.namespaces)
        if _names_others(checked, peer.namespaces):
            return None
    selector = peer.pods or Selector()
    pods = checked.pods_in(namespaces)
    if not pods or asks_for_given_labels(selector) or any(selectors.matches(selector, pod.labels) for pod in pods):
        return None
    where = f"namespace {', '.join(namespaces)}"
    todo = advice(selector, [pod.labels for pod in pods])
    if peer.namespaces is None and (elsewhere := checked.namespaces_with(selector)):
        todo = f"pods of namespace {', '.join(elsewhere)} have it: add a namespaceSelector to this peer"
    return f"no pod of {where} has {selector_text(selector)}", todo or "correct the labels, or delete the peer"


def _names_others(checked: Checked, selector: Selector) -> bool:
    """Return whether a selector names a namespace that no file has."""
    known = {name.name for name in checked.view.namespaces}
    return any(
        one.key == NAMESPACE_LABEL and one.operator is Operator.IN and not known.issuperset(one.values)
        for one in selector.requirements
    )


def _namespaces(checked: Checked, selector: Selector) -> tuple[str, str] | None:
    """Return what is wrong with a selector that no namespace matches. Other repositories may have namespaces, so that
    it is only said of a name that is nearly one of these, and of a label that these have with other values."""
    labels = [one.labels for one in checked.view.namespaces.values()]
    text = f"no namespace in these files has {selector_text(selector)}"
    for one in selector.requirements:
        values = sorted({found[one.key] for found in labels if one.key in found})
        if one.operator is not Operator.IN or any(value in values for value in one.values):
            continue
        near = next((found for value in one.values if (found := nearest(value, values))), None)
        if near is not None and one.key == NAMESPACE_LABEL:
            return text, f"did you mean {near}?"
        if values and one.key != NAMESPACE_LABEL:
            return text, f"{one.key} is {' or '.join(values[:_MOST_VALUES])} in these files"
        keys = sorted({key for found in labels for key in found})
        if not values and (near_key := nearest(one.key, keys)):
            return text, f"did you mean the label {near_key}?"
    return None


# --- Services and workloads


def _services(checked: Checked) -> Iterator[Finding]:
    for (kind, namespace, name), written in checked.repository.written.items():
        spec = written.content.get("spec") if kind == "Service" else None
        given = spec.get("selector") if isinstance(spec, dict) else None
        pods = checked.pods_in([namespace])
        if not isinstance(given, dict) or not given or not pods:
            continue
        selector = Selector(tuple(Requirement(str(key), Operator.IN, (str(value),)) for key, value in given.items()))
        if asks_for_given_labels(selector) or any(selectors.matches(selector, pod.labels) for pod in pods):
            continue
        text = f"spec.selector: no pod of namespace {namespace} has {selector_text(selector)}"
        todo = advice(selector, [pod.labels for pod in pods]) or "correct the labels"
        place, subject = written.at("spec.selector"), f"Service {namespace}/{name}"
        yield Finding(SERVICE_SELECTS_NOTHING, place, subject, text, todo, namespace)


def _templates(checked: Checked) -> Iterator[Finding]:
    for key, template in checked.repository.templates.items():
        if not selectors.matches(template.selector, template.labels):
            text = f"spec.selector: asks for {selector_text(template.selector)}, which spec.template does not have"
            place = checked.repository.written[key].at("spec.selector")
            todo = "give the labels of spec.template.metadata and spec.selector the same values"
            yield Finding(
                TEMPLATE_SELECTOR, place, f"{template.kind} {template.name}", text, todo, template.name.namespace
            )


def advice(selector: Selector, labels: Sequence[Labels]) -> str:
    """Return what a selector may mean instead, by the labels that pods have; nothing if they have nothing near."""
    for one in selector.requirements:
        if any(selectors.requirement_matches(one, found) for found in labels):
            continue
        if one.operator is Operator.DOES_NOT_EXIST:
            return f"each pod there has the label {one.key}"
        values = sorted({found[one.key] for found in labels if one.key in found})
        if one.operator is Operator.NOT_IN:
            return f"{one.key} is {' or '.join(values[:_MOST_VALUES])} in each pod there"
        near = next((found for value in one.values if (found := nearest(value, values))), None)
        if near is not None:
            return f"did you mean {one.key}={near}?"
        if values:
            return f"{one.key} is {' or '.join(values[:_MOST_VALUES])} there"
        near_key = nearest(one.key, sorted({key for found in labels for key in found}))
        if near_key is not None:
            return f"no pod has the label {one.key}; did you mean {near_key}?"
    return ""
