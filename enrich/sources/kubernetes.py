"""Watches the cluster through the Kubernetes API, with one thread for each kind that the service uses.

The index is synced once every kind has been listed. Bytes are decoded once, and objects are reduced right away to the
fields that policy and records use. ReplicaSets and Jobs are requested as metadata only.

An object that the server has and this program cannot parse is left out, counted and reported, once. A policy is not
left out, because without it pods would be open: what is wrong in it matches nothing, and the rest holds
(:meth:`enrich.sources.resources.Resource.readable`). For the same reason a policy whose kind the server does not serve
any more stays in force (:mod:`enrich.sources.last_state`).
"""

from __future__ import annotations

import time
from pathlib import Path

from enrich.index.cluster import Cluster
from enrich.sources.client import Client, Configure
from enrich.sources.policy_store import PolicyStore
from enrich.sources.resources import RESOURCES, Index, Resource
from enrich.sources.versions import Observer
from enrich.sources.watch import Watch


class KubernetesSource:
    """A source that watches the kinds that the index keeps."""

    def __init__(
        self,
        cluster: Cluster,
        configure: Configure | None = None,
        state: Path | None = None,
        observer: Observer | None = None,
    ) -> None:
        """``configure`` makes the API client; None: the one that the environment configures.

        ``state`` is a folder for the last state of policies of optional kinds; None: a restart loses it.
        ``observer`` takes each version of an object; None: versions are not kept."""
        self._client = Client(configure)
        self._state = state
        self._stores: list[PolicyStore] = []
        resources = [resource for resource in RESOURCES if resource.type in cluster.kinds]
        index = Index(cluster, resources)
        stores = [self._store(resource) for resource in resources]
        pairs = zip(resources, stores, strict=True)
        self._watches = [Watch(self._client, resource, index, store, observer) for resource, store in pairs]

    def _store(self, resource: Resource) -> PolicyStore | None:
        if self._state is None or not resource.is_kept:
            return None
        self._stores.append(PolicyStore(self._state / resource.definition))
        self._stores[-1].begin()
        return self._stores[-1]

    def start(self) -> None:
        """Read the configuration and begin to list. A server that cannot be reached is retried for ever.

        Raises :class:`enrich.sources.source.SourceError` if there is no usable configuration."""
        self._client.connect()
        for watch in self._watches:
            watch.thread.start()

    def stop(self) -> None:
        """Stop every watch, even while it waits for the server."""
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            if watch.thread.ident is not None:
                watch.thread.join(5)
        for store in self._stores:
            store.close()

    def problem(self) -> str | None:
        """Say why kinds are missing or may be stale; None if all are current."""
        return "; ".join(watch.problem for watch in self._watches if watch.problem) or None

    def state_problem(self) -> str | None:
        """Say why a restart may lose the last state of policies; None if it does not."""
        return "; ".join(problem for store in self._stores if (problem := store.problem)) or None

    def refused(self) -> list[str]:
        """Name the objects that the server has and this program cannot parse, as ``kind namespace/name``."""
        return sorted(
            f"{watch.resource.kind} {name}" for watch in self._watches for name in tuple(watch.objects.refused)
        )

    def kept(self) -> dict[str, str]:
        """Return why policies are in force that the server does not have or serve, by ``kind name``."""
        return {
            f"{watch.resource.kind} {name}": why for watch in self._watches for name, why in watch.objects.kept.items()
        }

    def age_s(self) -> dict[str, float]:
        """Return the seconds since the server last sent anything about each kind; bookmarks keep it under a minute or
        so."""
        now = time.monotonic()
        return {watch.resource.kind: now - watch.heard for watch in self._watches}

    def synced_until_ns(self) -> int:
        """Return the moment of the wall clock before which everything that the server published is in the index."""
        return min(watch.synced_until_ns() for watch in self._watches)
