"""The cluster by list and watch, one thread a kind: only the kinds that the service uses.

Nothing is synced before every kind was listed once. Raw bytes are decoded once and cut down at the door to what policy
and enrichment use. ReplicaSets and Jobs are asked for as metadata only.

An object that the server holds and we do not understand is left out, counted and reported; a NetworkPolicy isolates
what it selects and allows nothing then, for without it those pods would be open.
"""

from __future__ import annotations

import time

from enrich.index.cluster import Cluster
from enrich.sources.client import Client, Configure
from enrich.sources.resources import RESOURCES, Index
from enrich.sources.watch import Watch


class KubernetesSource:
    """Watches the kinds that the cluster's index keeps."""

    def __init__(self, cluster: Cluster, configure: Configure | None = None) -> None:
        """``configure``: makes the configured client; None for the environment's configuration."""
        self._client = Client(configure)
        resources = [resource for resource in RESOURCES if resource.type in cluster.kinds]
        index = Index(cluster, resources)
        self._watches = [Watch(self._client, resource, index) for resource in resources]

    def start(self) -> None:
        """Find the configuration and begin to list. A server that cannot be reached is tried for ever."""
        self._client.connect()
        for watch in self._watches:
            watch.thread.start()

    def stop(self) -> None:
        """End every watch, also one that waits for the server."""
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            if watch.thread.ident is not None:
                watch.thread.join(5)

    def problem(self) -> str | None:
        """What the watches wait for."""
        return "; ".join(watch.problem for watch in self._watches if watch.problem) or None

    def refused(self) -> list[str]:
        """Objects that the server holds and we do not understand, as kind namespace/name."""
        return sorted(f"{watch.resource.kind} {name}" for watch in self._watches for name in tuple(watch.refused))

    def age_s(self) -> dict[str, float]:
        """For each kind the seconds since the server was last heard of; a bookmark a minute keeps it low."""
        now = time.monotonic()
        return {watch.resource.kind: now - watch.heard for watch in self._watches}

    def synced_until_ns(self) -> int:
        """All that the server told before this moment of the wall clock is in the index."""
        return min(watch.synced_until_ns() for watch in self._watches)
