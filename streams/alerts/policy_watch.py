"""Watches policies and reports their changes, for rules of the kind ``after_change``.

The workers that enrich records do not watch policies: batches of verdicts name the policies that decided. So this role
runs a watch of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from enrich.index.cluster import Cluster
from enrich.model import POLICY_API_VERSIONS, Object, Policy
from enrich.runtime.watching import watch_problem
from enrich.sources.factory import start_source
from enrich.sources.versions import Version
from streams.alerts.policy_changes import MAX_BY, Policies, PolicyChange, diff_policies, policy_name

_UNNAMED_S: Final = 2.0
"""How long a change waits for the version that says who made it. It follows at once, unless the kind is gone."""


class PolicyWatch:
    """Calls ``on_change`` for each change, on a thread of the source. Policies in the first list are not changes.

    It observes versions, too: the index has the policy first, and then the source says who changed it."""

    kinds: Collection[type] = frozenset(POLICY_API_VERSIONS)

    def __init__(self, source: str, on_change: Callable[[PolicyChange], None]) -> None:
        """``source`` has the form of the setting WEIR_SOURCE. Raises StopServiceError."""
        self._on_change = on_change
        self._before: Policies | None = None
        self._lock = threading.Lock()
        self._waiting: list[PolicyChange] = []
        self._cluster = Cluster(kinds=POLICY_API_VERSIONS)
        self._cluster.subscribe(self._compare)
        self.source = start_source(source, self._cluster, self)
        """What fills the index of policies."""

    def problem(self) -> str | None:
        """Return why changes are not seen at the moment, or None."""
        self._pass_on(lambda change: change.at < time.time() - _UNNAMED_S)
        return watch_problem(self._cluster, self.source)

    def stop(self) -> None:
        """Stop the watch."""
        self.source.stop()

    def _compare(self, _kinds: frozenset[type]) -> None:
        if not self._cluster.synced.is_set():
            return
        found: tuple[Policy, ...] = (
            *self._cluster.policies().values(),
            *self._cluster.cluster_policies().values(),
        )
        after = {policy_name(policy): policy for policy in found}
        before, self._before = self._before, after
        if before is not None:
            with self._lock:
                self._waiting += diff_policies(before, after, time.time())
        self._pass_on(lambda change: change.at < time.time() - _UNNAMED_S)

    def listed(self, kind: type, found: Sequence[tuple[Object, Version]]) -> None:
        """Pass on the changes of a kind, each with who made it, after a list of all its objects."""
        by = {f"{kind.__name__} {made.key}": version.changed_by for made, version in found}
        self._pass_on(lambda change: change.kind == kind.__name__, by)

    def set(self, made: Object, version: Version) -> None:
        """Pass on the change of an object with who made it."""
        name = f"{type(made).__name__} {made.key}"
        self._pass_on(lambda change: change.policy == name, {name: version.changed_by})

    def deleted(self, made: Object, version: Version) -> None:
        """Pass on the deletion of an object. Its version says who changed it last, not who deleted it."""
        del version
        name = f"{type(made).__name__} {made.key}"
        self._pass_on(lambda change: change.policy == name)

    def _pass_on(self, is_due: Callable[[PolicyChange], bool], by: Mapping[str, str] = MappingProxyType({})) -> None:
        with self._lock:
            due = [change for change in self._waiting if is_due(change)]
            self._waiting = [change for change in self._waiting if not is_due(change)]
        for change in due:
            who = "" if change.what == "deleted" else by.get(change.policy, "")
            self._on_change(msgspec.structs.replace(change, by=who[:MAX_BY]))
