"""What the policies of some views do not tell apart: pods that the same
selectors match, and ports between the same edges.

Many records differ in pods and ports that make no difference to any policy. An example: if the only policy of a
namespace selects pods with ``app=web`` and allows TCP 80, then all other pods of one namespace are alike, and so are
the ports 0 to 79, and 81 to 65535. What is decided about one of them is decided about all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence

from enrich.history.distinctions import all_rules_of, policies_of
from enrich.label_selector import Selector
from enrich.model import Pod, Protocol
from enrich.policy import selectors
from enrich.policy.matching import PolicyView, resolve_named_port


class Alike:
    """Numbers the pods and ports that the policies of some views, about pods of a namespace, do not tell apart."""

    def __init__(self, views: Sequence[PolicyView], namespace: str) -> None:
        found: dict[Selector, None] = {}
        names: dict[tuple[str, Protocol], None] = {}
        edges: set[int] = set()
        for policy in (policy for view in views for policy in policies_of(view, namespace)):
            found[policy.pods] = None
            for rule in all_rules_of(policy):
                found.update((peer.pods, None) for peer in rule.peers if peer.pods is not None)
                for one in rule.ports:
                    if isinstance(one.port, str):
                        names[one.port, one.protocol] = None
                    elif one.port is not None:
                        edges |= {one.port, (one.end_port or one.port) + 1}
        self._selectors, self._names, self._edges = tuple(found), tuple(names), sorted(edges)
        self._classes: dict[Hashable, int] = {}
        self._of_kinds: dict[int, int] = {}

    def pods(self, kind: int, pod: Pod) -> int:
        """Return the number of a pod's class. ``kind``: equal only for pods with equal namespace, labels and ports."""
        found = self._of_kinds.get(kind)
        if found is None:
            seen = (
                pod.namespace,
                tuple(selectors.matches(one, pod.labels) for one in self._selectors),
                tuple(resolve_named_port(pod.ports, *one) for one in self._names),
            )
            found = self._of_kinds[kind] = self._classes.setdefault(seen, len(self._classes))
        return found

    def port(self, number: int | None) -> int | None:
        """Return what stands for a port: equal for ports that no policy tells apart."""
        if number is None or self._names:
            # Which number a name means differs from pod to pod.
            return number
        return -1 - bisect_right(self._edges, number)
