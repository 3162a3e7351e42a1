"""Watches policies and reports their changes, for rules of the kind ``after_change``.

The workers that enrich records do not watch policies: batches of verdicts name the policies that decided. So this role
runs a watch of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from enrich.index.cluster import Cluster
from enrich.model import POLICY_API_VERSIONS, Policy
from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.watching import watch_problem
from enrich.sources.factory import make_source
from enrich.sources.source import Source, SourceError
from streams.alerts.policy_changes import Policies, PolicyChange, diff_policies, policy_name


class PolicyWatch:
    """Calls ``on_change`` for each change, on a thread of the source. Policies in the first list are not changes."""

    def __init__(self, source: str, on_change: Callable[[PolicyChange], None]) -> None:
        """``source`` has the form of the setting WEIR_SOURCE. Raises StopServiceError."""
        self._on_change = on_change
        self._before: Policies | None = None
        self._cluster = Cluster(kinds=POLICY_API_VERSIONS)
        self._cluster.subscribe(self._compare)
        try:
            self.source: Source = make_source(source, self._cluster)
            """What fills the index of policies."""
            self.source.start()
        except SourceError as error:
            raise StopServiceError(str(error), Exit.USAGE) from error

    def problem(self) -> str | None:
        """Return why changes are not seen at the moment, or None."""
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
            for change in diff_policies(before, after, time.time()):
                self._on_change(change)
