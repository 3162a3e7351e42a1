"""Finds out which cluster a worker belongs to, before it reads anything.

The id is part of the names of the consumer groups, and says which batches and records are the worker's. So nothing can
begin without it, and a guess would take another cluster's.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Final

import structlog

from enrich.runtime.process import Exit, StopServiceError
from enrich.sources.own_cluster import UnknownClusterError, cluster_id_finder
from enrich.sources.source import SourceError
from streams.settings import EVERY_CLUSTER, Settings

log = structlog.get_logger("kubeweir.streams")

_RETRY_S: Final = 1.0


class OwnCluster:
    """The search for the id of a worker's cluster."""

    def __init__(self, settings: Settings, *, every: bool = False) -> None:
        """``every``: whether WEIR_CLUSTER may be ``*``."""
        self._settings, self._every = settings, every
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Return why the id is not known yet, or None."""
        return self._problem

    def find(self, stop: threading.Event) -> Settings:
        """Return the settings with the id; it is empty if every cluster's records are the worker's.

        Waits for the source; returns the settings as they are if the service stops meanwhile. Raises
        StopServiceError."""
        settings = self._settings
        if settings.cluster == EVERY_CLUSTER:
            if not self._every:
                raise StopServiceError(
                    "WEIR_CLUSTER=*: only a sink can take every cluster's records; all other names come from one API "
                    "server: set the id of this worker's cluster, or leave WEIR_CLUSTER empty",
                    Exit.USAGE,
                )
            return replace(settings, cluster="")
        if settings.cluster:
            return settings
        try:
            find = cluster_id_finder(settings.source)
        except SourceError as error:
            raise StopServiceError(
                f"the cluster's id is not known: {error}; or set WEIR_CLUSTER", Exit.USAGE
            ) from error
        while not stop.is_set():
            try:
                found = find()
            except UnknownClusterError as error:
                self._report(str(error))
                stop.wait(_RETRY_S)
            else:
                self._problem = None
                _log_found(found)
                return replace(settings, cluster=found)
        return settings

    def _report(self, error: str) -> None:
        problem = f"the cluster's id is not known yet: {error}"
        if problem != self._problem:
            log.warning("the cluster's id cannot be read; retrying. Set WEIR_CLUSTER to start without it", error=error)
        self._problem = problem


def _log_found(cluster: str) -> None:
    if cluster:
        log.info("cluster found", cluster=cluster)
    else:
        log.warning(
            "the cluster's id is not known, because the manifests have no namespace kube-system: batches and records "
            "of every cluster on these topics are taken. Set WEIR_CLUSTER if several clusters share them"
        )
