"""Finds ports of rules that no container has, by name or by number.

A container listens on ports that it does not declare, too. So a number is only a finding where every pod that the rule
is about declares ports; a name that no container has is always one, because the rule then matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from enrich.checking.finding import UNDECLARED_PORT, UNKNOWN_PORT_NAME, Checked, Finding
from enrich.checking.selecting import asks_for_given_labels, matched_namespaces
from enrich.explain.mismatch import port_text
from enrich.history.advice.usage import does_select, rules_of
from enrich.label_selector import Selector
from enrich.model import ClusterNetworkPolicy, ClusterRule, Peer, Pod, Policy, PolicyPort, Rule
from enrich.parse.spelling import nearest
from enrich.policy import selectors
from enrich.policy.matching import Direction, port_matches


def ports_that_no_container_has(checked: Checked) -> Iterator[Finding]:
    """Yield the findings of all policies."""
    for policy in checked.view.all_policies():
        for direction in Direction:
            field = direction.name.lower()
            for number, rule in enumerate(rules_of(policy, direction)):
                destinations = _destinations(checked, policy, rule, direction)
                for index, port in enumerate(rule.ports):
                    if isinstance(rule, ClusterRule):
                        path = f"spec.{field}[{number}]"
                    else:
                        path = f"spec.{field}[{number}].ports[{index}]"
                    yield from _port(checked, policy, path, port, destinations)


def _destinations(
    checked: Checked, policy: Policy, rule: Rule | ClusterRule, direction: Direction
) -> tuple[Pod, ...] | None:
    """Return the pods whose ports a rule means; None if they are not all known, or are not all pods."""
    if direction is Direction.EGRESS:
        return _peers(checked, policy, rule.peers)
    own = isinstance(policy, ClusterNetworkPolicy)
    pods = checked.pods_in(matched_namespaces(checked, policy.namespaces) if own else [policy.key.namespace])  # type: ignore[union-attr]  # as `own` says
    if pods is None or asks_for_given_labels(policy.pods):
        return None
    return tuple(pod for pod in pods if does_select(checked.view, policy, pod))


def _peers(checked: Checked, policy: Policy, peers: Sequence[Peer]) -> tuple[Pod, ...] | None:
    found: list[Pod] = []
    for peer in peers:
        selector = peer.pods or Selector()
        if peer.ip_block is not None or peer.nodes is not None or asks_for_given_labels(selector):
            return None
        own = peer.namespaces is None
        pods = checked.pods_in([policy.key.namespace] if own else matched_namespaces(checked, peer.namespaces))  # type: ignore[arg-type]  # as `own` says
        if pods is None:
            return None
        found += (pod for pod in pods if not pod.host_network and selectors.matches(selector, pod.labels))
    return tuple(found)


def _port(
    checked: Checked, policy: Policy, path: str, port: PolicyPort, destinations: tuple[Pod, ...] | None
) -> Iterator[Finding]:
    if not destinations or port.port is None:
        return
    declared = {pod.key: checked.delivered.ports[pod.key] for pod in destinations}
    if any(port_matches(port, pod, one.protocol, one.port) for pod in destinations for one in declared[pod.key]):
        return
    whose = checked.stands_for(destinations)
    if isinstance(port.port, str):
        names = sorted({one.name for ports in declared.values() for one in ports if one.name})
        near = nearest(port.port, names)
        text = f"no container of {whose} has a port {port_text(port)}, so this port never matches"
        todo = f"did you mean {near}?" if near else f"their ports are called {', '.join(names) or 'nothing'}"
        if near == port.port:
            todo = f"{near} is a port of another protocol there: correct the protocol"
        yield checked.finding(UNKNOWN_PORT_NAME, policy, path, text, todo)
    elif all(declared.values()):
        numbers = sorted({f"{one.port}/{one.protocol.name}" for ports in declared.values() for one in ports})
        text = f"no container of {whose} declares {port_text(port)}"
        todo = f"they declare {', '.join(numbers)}: correct the port, or declare it"
        yield checked.finding(UNDECLARED_PORT, policy, path, text, todo)
