"""Which terms select a pod, kept while pods, namespaces and terms change.

Pods of one namespace with equal labels are a group; selectors are evaluated once a group, and a term that comes or goes
is evaluated alone. Where many come at once (the first compilation), groups whose labels agree in the keys that any
selector asks for share an evaluation: a pod-template-hash costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from enrich.model import Labels, Name, Namespace, Pod, Selector
from enrich.policy import selectors
from probe.policy.peer_selectors import PodPeerSelector

_MANY = 12
"""Terms at once, from which on everything is evaluated anew."""


class LabelGroup:
    """Pods of one namespace with equal labels."""

    __slots__ = ("labels", "members", "namespace", "terms")

    def __init__(self, namespace: str, labels: Labels) -> None:
        self.namespace = namespace
        self.labels = labels
        self.members: set[Name] = set()
        self.terms: frozenset[int] = frozenset()


class LabelGroups:
    """The pods that exist and hold addresses, by group."""

    def __init__(self) -> None:
        self._namespaces: Mapping[Name, Namespace] = {}
        self._groups: dict[str, dict[frozenset[tuple[str, str]], LabelGroup]] = {}
        self._of: dict[Name, LabelGroup] = {}
        self._terms: dict[int, PodPeerSelector] = {}
        self._memo = _Memo({}, {})

    def add(self, pod: Pod) -> None:
        """A pod that was not there."""
        of_namespace = self._groups.setdefault(pod.namespace, {})
        key = frozenset(pod.labels.items())
        group = of_namespace.get(key)
        if group is None:
            group = of_namespace[key] = LabelGroup(pod.namespace, pod.labels)
            group.terms = self._memo.terms_of(group)
        group.members.add(pod.key)
        self._of[pod.key] = group

    def remove(self, pod: Pod) -> None:
        """A pod that was there."""
        group = self._of.pop(pod.key)
        group.members.discard(pod.key)
        if not group.members:
            del self._groups[group.namespace][frozenset(group.labels.items())]
            if not self._groups[group.namespace]:
                del self._groups[group.namespace]

    def pods_in(self, namespace: str) -> Iterator[Name]:
        """A namespace's pods."""
        for group in self._groups.get(namespace, {}).values():
            yield from group.members

    def terms_of(self, pod: Name) -> frozenset[int]:
        """The terms that select a pod."""
        return self._of[pod].terms

    def update(
        self,
        namespaces: Mapping[Name, Namespace],
        relabelled: set[str],
        added: Mapping[int, PodPeerSelector],
        removed: set[int],
    ) -> set[Name]:
        """Terms or namespaces that changed; the pods whose terms did, among those that are there already."""
        self._namespaces = namespaces
        self._terms = {**{n: t for n, t in self._terms.items() if n not in removed}, **added}
        if added or removed or relabelled:
            self._memo = _Memo(namespaces, self._terms)
        changed: set[Name] = set()
        if len(added) > _MANY:
            for group in self._all():
                self._assign(group, self._memo.terms_of(group), changed)
            return changed
        for namespace in relabelled:
            for group in self._groups.get(namespace, {}).values():
                self._assign(group, self._memo.terms_of(group), changed)
        if removed:
            for group in self._all():
                if not group.terms.isdisjoint(removed):
                    self._assign(group, group.terms - removed, changed)
        for number, term in added.items():
            for group in self._candidates(term):
                if term.pods is None or selectors.matches(term.pods, group.labels):
                    self._assign(group, group.terms | {number}, changed)
        return changed

    def _assign(self, group: LabelGroup, terms: frozenset[int], changed: set[Name]) -> None:
        if terms != group.terms:
            group.terms = terms
            changed |= group.members

    def _all(self) -> Iterator[LabelGroup]:
        for of_namespace in self._groups.values():
            yield from of_namespace.values()

    def _candidates(self, term: PodPeerSelector) -> Iterator[LabelGroup]:
        """The groups of the namespaces that a term is about."""
        if term.namespaces is None:
            yield from self._groups.get(term.home, {}).values()
            return
        for namespace, groups in self._groups.items():
            found = self._namespaces.get(Name("", namespace))
            if found is not None and selectors.matches(term.namespaces, found.labels):
                yield from groups.values()


class _Memo:
    """Evaluations under one state of namespaces and terms."""

    def __init__(self, namespaces: Mapping[Name, Namespace], terms: Mapping[int, PodPeerSelector]) -> None:
        self._namespaces, self._terms = namespaces, terms
        asked = {need.key for term in terms.values() if term.pods for need in term.pods.requirements}
        self._keys = sorted(asked)
        self._candidates: dict[str, list[tuple[Selector | None, frozenset[int]]]] = {}
        self._found: dict[tuple[str, tuple[str | None, ...]], frozenset[int]] = {}

    def terms_of(self, group: LabelGroup) -> frozenset[int]:
        """By the group's labels, as far as any selector asks for them."""
        key = (group.namespace, tuple([group.labels.get(asked) for asked in self._keys]))
        found = self._found.get(key)
        if found is None:
            if group.namespace not in self._candidates:
                self._candidates[group.namespace] = self._in_namespace(group.namespace)
            matching = (
                numbers
                for selector, numbers in self._candidates[group.namespace]
                if selector is None or selectors.matches(selector, group.labels)
            )
            found = self._found[key] = frozenset().union(*matching)
        return found

    def _in_namespace(self, namespace: str) -> list[tuple[Selector | None, frozenset[int]]]:
        """The pod selectors that count for the namespace's pods, and the terms of each."""
        home = self._namespaces.get(Name("", namespace))
        holds: dict[Selector, bool] = {}
        by_selector: dict[Selector | None, set[int]] = {}
        for number, term in self._terms.items():
            wanted = term.namespaces
            if wanted is not None and wanted not in holds:
                holds[wanted] = home is not None and selectors.matches(wanted, home.labels)
            if term.home == namespace if wanted is None else holds[wanted]:
                by_selector.setdefault(term.pods, set()).add(number)
        return [(selector, frozenset(numbers)) for selector, numbers in by_selector.items()]
