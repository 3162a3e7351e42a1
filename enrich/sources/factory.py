"""Makes the source that ``WEIR_SOURCE`` names.

This module alone knows every kind of source, and imports one only when it is used: importing the official Kubernetes
client takes a third of a second, which a demo with a folder of manifests does not need.
"""

from __future__ import annotations

from pathlib import Path

from enrich.index.cluster import Cluster
from enrich.runtime.process import Exit, StopServiceError
from enrich.sources.source import Source, SourceError
from enrich.sources.versions import Observer


def make_source(setting: str, cluster: Cluster, state: Path | None = None, observer: Observer | None = None) -> Source:
    """Make the source that fills ``cluster``; ``setting`` is ``kubernetes`` or ``manifests:FOLDER``.

    ``state`` is a folder in which the source may keep policies over a restart; None: there is none.
    ``observer`` takes each version of an object that the source finds; None: versions are not kept.
    Raises :class:`SourceError` for any other text. The source is not started.
    """
    kind, _, rest = setting.partition(":")
    if kind == "manifests" and rest:
        from enrich.sources.manifests import ManifestSource  # noqa: PLC0415 - the libraries of one source, not of both

        return ManifestSource(Path(rest), cluster, observer)
    if kind == "kubernetes" and not rest:
        from enrich.sources.kubernetes import KubernetesSource  # noqa: PLC0415 - as above

        return KubernetesSource(cluster, state=state, observer=observer)
    raise unknown_source(setting)


def start_source(setting: str, cluster: Cluster, observer: Observer | None = None) -> Source:
    """Make a source for a service, and start it; see :func:`make_source`. Raises StopServiceError."""
    try:
        source = make_source(setting, cluster, observer=observer)
        source.start()
    except SourceError as error:
        raise StopServiceError(str(error), Exit.USAGE) from error
    return source


def unknown_source(setting: str) -> SourceError:
    """Return the error for a setting that names no source."""
    return SourceError(f"WEIR_SOURCE={setting!r}: must be kubernetes, or manifests:FOLDER")
