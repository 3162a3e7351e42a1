"""Which addresses a node's rules can tell apart.

A *term* is one distinct way in which a rule in force names peers: two selectors, or a CIDR with its exceptions. Peers
that the same terms match, and on which the named ports in use have the same numbers, are one class. Selectors are
evaluated once for all pods whose labels agree in the keys that any selector asks for: a pod-template-hash splits
nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from enrich import selectors
from enrich.model import IPBlock, Labels, Name, NamedPort, Namespace, NetworkPolicy, Peer, Pod, Protocol, Selector
from enrich.policy import PolicyView, newest_last, resolve
from probe.blocks import Blocks
from probe.desired import NODE, POD, WORLD, host_key

Term = tuple[str, Selector | None, Selector | None] | IPBlock
"""(namespace where the namespace selector is absent, namespace selector, pod selector), or a block."""
PortName = tuple[str, Protocol]
Named = tuple[tuple[str, Protocol, tuple[int, ...]], ...]
"""(port name, protocol, its numbers on a pod)."""


@dataclass(frozen=True, slots=True, eq=False)
class PeerClass:
    """Peers that no rule tells apart. One object a class within a compilation: compared by identity."""

    kind: int
    terms: frozenset[int]
    """Index into the terms that the compilation lists."""
    named: Named = ()
    own: bool = False
    """The own node."""


def term_of(policy: NetworkPolicy, peer: Peer) -> Term:
    """The term by which a policy's rule names a peer."""
    if peer.ip_block is not None:
        return peer.ip_block
    return ("" if peer.namespaces is not None else policy.namespace, peer.namespaces, peer.pods)


def is_universal(term: Term) -> bool:
    """Whether the term selects every pod."""
    if isinstance(term, IPBlock) or term[1] is None or term[1].requirements:
        return False
    return term[2] is None or not term[2].requirements


def resolved(ports: Sequence[NamedPort], names: Iterable[PortName]) -> Named:
    """The numbers that those of the names have which a pod has."""
    found = ((name, protocol, tuple(sorted(resolve(ports, name, protocol)))) for name, protocol in names)
    return tuple(entry for entry in found if entry[2])


def classify(
    view: PolicyView, terms: Mapping[Term, int], names: Sequence[PortName]
) -> dict[tuple[bytes, int], PeerClass]:
    """The class of every address that is not just anywhere, by ipcache key."""
    made: dict[tuple[int, frozenset[int], Named, bool], PeerClass] = {}

    def one(kind: int, matched: frozenset[int], named: Named = (), *, own: bool = False) -> PeerClass:
        return made.setdefault((kind, matched, named, own), PeerClass(kind, matched, named, own))

    blocks = Blocks({term: number for term, number in terms.items() if isinstance(term, IPBlock)})
    found = {key: one(WORLD, matched) for key, matched in blocks.items()}
    own = view.nodes.get(Name("", view.own_node))
    for node in view.nodes.values():
        for key in map(host_key, node.ips):
            found[key] = one(NODE, blocks.terms_of(key[0]), own=node is own)
    selected = _Selected(view.namespaces, terms)
    on_ports: dict[tuple[NamedPort, ...], Named] = {}
    for pod in newest_last(view.pods.values()):
        if pod.ports not in on_ports:
            on_ports[pod.ports] = resolved(pod.ports, names)
        by_labels = selected.terms_of(pod)
        for key in map(host_key, pod.ips):
            found[key] = one(POD, by_labels | blocks.terms_of(key[0]), on_ports[pod.ports])
    return found


class _Selected:
    """The terms that select a pod by its labels and its namespace's."""

    def __init__(self, namespaces: Mapping[Name, Namespace], terms: Mapping[Term, int]) -> None:
        self._namespaces = namespaces
        self._terms = [(term, number) for term, number in terms.items() if not isinstance(term, IPBlock)]
        asked = (requirement.key for (_, _, pods), _ in self._terms if pods for requirement in pods.requirements)
        self._keys = sorted(set(asked))
        self._candidates: dict[str, list[tuple[Selector | None, frozenset[int]]]] = {}
        self._found: dict[tuple[str, tuple[str | None, ...]], frozenset[int]] = {}

    def terms_of(self, pod: Pod) -> frozenset[int]:
        """By the pod's labels, as far as any selector asks for them."""
        key = (pod.namespace, tuple(pod.labels.get(asked) for asked in self._keys))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._evaluate(pod.namespace, pod.labels)
        return found

    def _evaluate(self, namespace: str, labels: Labels) -> frozenset[int]:
        if namespace not in self._candidates:
            self._candidates[namespace] = self._in_namespace(namespace)
        matching = (
            numbers
            for selector, numbers in self._candidates[namespace]
            if selector is None or selectors.matches(selector, labels)
        )
        return frozenset().union(*matching)

    def _in_namespace(self, namespace: str) -> list[tuple[Selector | None, frozenset[int]]]:
        """The pod selectors that count for the namespace's pods, and the terms of each."""
        found = self._namespaces.get(Name("", namespace))
        holds: dict[Selector, bool] = {}
        by_selector: dict[Selector | None, set[int]] = defaultdict(set)
        for (home, wanted, pods), number in self._terms:
            if wanted is not None and wanted not in holds:
                holds[wanted] = found is not None and selectors.matches(wanted, found.labels)
            if home == namespace if wanted is None else holds[wanted]:
                by_selector[pods].add(number)
        return [(selector, frozenset(numbers)) for selector, numbers in by_selector.items()]
