"""What a source of the cluster's objects is, and which one a setting means."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from enrich.index.cluster import Cluster


class SourceError(RuntimeError):
    """The source cannot start; the message says what is wrong and what to do."""


class Source(Protocol):
    """Fills a cluster's index and keeps it up to date, on threads of its own."""

    def start(self) -> None:
        """Begin. Raises :class:`SourceError` for what only a person can mend."""

    def stop(self) -> None:
        """End the threads."""

    def problem(self) -> str | None:
        """What keeps the index from being up to date, in words; None if nothing does."""

    def age_s(self) -> dict[str, float]:
        """For each kind the seconds since its origin was last heard of; empty where that has no meaning."""

    def refused(self) -> list[str]:
        """Objects that are there and are not understood, as kind namespace/name."""

    def synced_until_ns(self) -> int:
        """All that happened before this moment of the wall clock, and was told, is in the index."""


def make_source(setting: str, cluster: Cluster) -> Source:
    """``manifests:FOLDER`` or ``kubernetes``. Raises :class:`SourceError`."""
    kind, _, rest = setting.partition(":")
    if kind == "manifests" and rest:
        from enrich.sources.manifests import ManifestSource  # noqa: PLC0415 - one source's libraries, not both

        return ManifestSource(Path(rest), cluster)
    if kind == "kubernetes" and not rest:
        from enrich.sources.kubernetes import KubernetesSource  # noqa: PLC0415 - as above

        return KubernetesSource(cluster)
    raise SourceError(f"WEIR_SOURCE={setting!r}: must be kubernetes, or manifests:FOLDER")
