"""Finds which pod peer selectors select each pod, while pods, namespaces and selectors change.

Theory of operation: pods of one namespace with equal labels form a label group, and a selector is evaluated once per
group, not once per pod. A Deployment of 500 replicas is one group. So:

1. A pod that appears costs one dict lookup if its group exists, and one evaluation of the selectors otherwise.
2. A selector that appears is evaluated on the groups of the namespaces that it can select.
3. A namespace whose labels change costs an evaluation of its own groups.

Where much is new at once (the first compilation, a large policy), groups of different Deployments share evaluations
too: groups of a namespace that agree in every label key which some selector names are selected by the same selectors
(:class:`_Evaluations`). The labels ``app=web, pod-template-hash=7d4`` and ``app=web, pod-template-hash=9f1`` are two
groups and, unless a policy names ``pod-template-hash``, one evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from enrich.label_selector import Selector
from enrich.model import Labels, Name, Namespace, Pod
from enrich.policy import selectors
from probe.policy.peer_selectors import PodPeerSelector

_EVALUATE_ALL_FROM: Final = 12
"""More new selectors than this at once, and it is cheaper to evaluate every group again."""

_MAX_EVALUATIONS: Final = 16_384
"""Evaluations that are remembered. Pods with a label value of their own, such as those of Jobs, add one each."""


class LabelGroup:
    """Pods of one namespace with equal labels."""

    __slots__ = ("labels", "members", "namespace", "selectors")

    def __init__(self, namespace: str, labels: Labels) -> None:
        self.namespace = namespace
        self.labels = labels
        self.members: set[Name] = set()
        self.selectors: frozenset[int] = frozenset()


class LabelGroups:
    """The pods that hold addresses, in label groups."""

    def __init__(self) -> None:
        self._namespaces: Mapping[Name, Namespace] = {}
        self._groups: dict[str, dict[frozenset[tuple[str, str]], LabelGroup]] = {}
        """By namespace, then by labels."""
        self._group_of: dict[Name, LabelGroup] = {}
        self._selectors: dict[int, PodPeerSelector] = {}
        self._evaluations = _Evaluations({}, {})

    def add(self, pod: Pod) -> None:
        """Add a pod that is not in a group yet."""
        in_namespace = self._groups.setdefault(pod.namespace, {})
        key = frozenset(pod.labels.items())
        group = in_namespace.get(key)
        if group is None:
            group = in_namespace[key] = LabelGroup(pod.namespace, pod.labels)
            group.selectors = self._evaluations.selectors_of(group)
        group.members.add(pod.key)
        self._group_of[pod.key] = group

    def remove(self, pod: Pod) -> None:
        """Remove a pod that was added."""
        group = self._group_of.pop(pod.key)
        group.members.discard(pod.key)
        if not group.members:
            del self._groups[group.namespace][frozenset(group.labels.items())]
            if not self._groups[group.namespace]:
                del self._groups[group.namespace]

    def pods_in(self, namespace: str) -> Iterator[Name]:
        """Yield the pods of a namespace."""
        for group in self._groups.get(namespace, {}).values():
            yield from group.members

    def selectors_of(self, pod: Name) -> frozenset[int]:
        """Return the numbers of the peer selectors that select a pod."""
        return self._group_of[pod].selectors

    def update(
        self,
        namespaces: Mapping[Name, Namespace],
        relabelled: set[str],
        added: Mapping[int, PodPeerSelector],
        removed: set[int],
    ) -> set[Name]:
        """Apply changes of selectors and namespaces. Return the pods that other selectors select now."""
        self._namespaces = namespaces
        kept = {number: selector for number, selector in self._selectors.items() if number not in removed}
        self._selectors = {**kept, **added}
        if added or removed or relabelled:
            self._evaluations = _Evaluations(namespaces, self._selectors)
        changed: set[Name] = set()
        if len(added) > _EVALUATE_ALL_FROM:
            for group in self._all_groups():
                self._assign(group, self._evaluations.selectors_of(group), changed)
            return changed
        for namespace in relabelled:
            for group in self._groups.get(namespace, {}).values():
                self._assign(group, self._evaluations.selectors_of(group), changed)
        if removed:
            for group in self._all_groups():
                if not group.selectors.isdisjoint(removed):
                    self._assign(group, group.selectors - removed, changed)
        for number, selector in added.items():
            for group in self._selectable_groups(selector):
                if selector.pods is None or selectors.matches(selector.pods, group.labels):
                    self._assign(group, group.selectors | {number}, changed)
        return changed

    def _assign(self, group: LabelGroup, numbers: frozenset[int], changed: set[Name]) -> None:
        if numbers != group.selectors:
            group.selectors = numbers
            changed |= group.members

    def _all_groups(self) -> Iterator[LabelGroup]:
        for in_namespace in self._groups.values():
            yield from in_namespace.values()

    def _selectable_groups(self, selector: PodPeerSelector) -> Iterator[LabelGroup]:
        """Yield the groups of the namespaces that a selector selects."""
        if selector.namespaces is None:
            yield from self._groups.get(selector.home, {}).values()
            return
        for name, groups in self._groups.items():
            namespace = self._namespaces.get(Name("", name))
            if namespace is not None and selectors.matches(selector.namespaces, namespace.labels):
                yield from groups.values()


class _Evaluations:
    """Memoized evaluations of all selectors, valid for one state of the namespaces and the selectors."""

    def __init__(self, namespaces: Mapping[Name, Namespace], pod_selectors: Mapping[int, PodPeerSelector]) -> None:
        self._namespaces, self._selectors = namespaces, pod_selectors
        self._keys = sorted(
            {
                requirement.key
                for selector in pod_selectors.values()
                if selector.pods
                for requirement in selector.pods.requirements
            }
        )
        """The label keys that any selector names."""
        self._candidates: dict[str, list[tuple[Selector | None, frozenset[int]]]] = {}
        self._found: dict[tuple[str, tuple[str | None, ...]], frozenset[int]] = {}

    def selectors_of(self, group: LabelGroup) -> frozenset[int]:
        """Return the numbers of the selectors that select a group."""
        key = (group.namespace, tuple([group.labels.get(label) for label in self._keys]))
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _MAX_EVALUATIONS:
                self._found.clear()
            if group.namespace not in self._candidates:
                self._candidates[group.namespace] = self._candidates_in(group.namespace)
            matching = (
                numbers
                for selector, numbers in self._candidates[group.namespace]
                if selector is None or selectors.matches(selector, group.labels)
            )
            found = self._found[key] = frozenset().union(*matching)
        return found

    def _candidates_in(self, namespace: str) -> list[tuple[Selector | None, frozenset[int]]]:
        """Return the distinct label selectors that can select pods of a namespace, with the numbers of each."""
        home = self._namespaces.get(Name("", namespace))
        selects_namespace: dict[Selector, bool] = {}
        by_labels: dict[Selector | None, set[int]] = {}
        for number, selector in self._selectors.items():
            namespaces = selector.namespaces
            if namespaces is not None and namespaces not in selects_namespace:
                selects_namespace[namespaces] = home is not None and selectors.matches(namespaces, home.labels)
            if selector.home == namespace if namespaces is None else selects_namespace[namespaces]:
                by_labels.setdefault(selector.pods, set()).add(number)
        return [(labels, frozenset(numbers)) for labels, numbers in by_labels.items()]
