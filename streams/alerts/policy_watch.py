"""Which policies change, by a watch of our own: the enricher has none, for batches name the policies behind a row."""

from __future__ import annotations

import time
from collections.abc import Callable

from enrich.index.cluster import Cluster
from enrich.model import POLICY_API_VERSIONS, Policy
from enrich.runtime.process import Exit, StopServiceError
from enrich.sources.factory import make_source
from enrich.sources.source import SourceError
from streams.alerts.policy_changes import Change, Policies, changes, named


class PolicyWatch:
    """Tells of each change, on a thread of the source's. What is there at the start is no change."""

    def __init__(self, source: str, tell: Callable[[Change], None]) -> None:
        """``source`` as the setting has it. Raises StopServiceError."""
        self._tell = tell
        self._before: Policies | None = None
        self._cluster = Cluster(kinds=POLICY_API_VERSIONS)
        self._cluster.subscribe(self._look)
        try:
            self._source = make_source(source, self._cluster)
            self._source.start()
        except SourceError as error:
            raise StopServiceError(str(error), Exit.USAGE) from error

    def problem(self) -> str | None:
        """What keeps it from seeing changes."""
        if not self._cluster.synced.is_set():
            return f"not listed yet: {', '.join(self._cluster.missing())}"
        return self._source.problem()

    def stop(self) -> None:
        """End it."""
        self._source.stop()

    def _look(self, _kinds: frozenset[type]) -> None:
        if not self._cluster.synced.is_set():
            return
        found: tuple[Policy, ...] = (
            *self._cluster.policies().values(),
            *self._cluster.cluster_policies().values(),
        )
        after = {named(policy): policy for policy in found}
        before, self._before = self._before, after
        if before is not None:
            for change in changes(before, after, time.time()):
                self._tell(change)
