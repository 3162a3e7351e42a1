"""Finds the id of the cluster that a source describes: the UID of its namespace kube-system.

Kubernetes has no id of a cluster. This namespace exists in each from the first start to the end, and cannot be made
again by a tenant, so that its UID serves as one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import orjson

from enrich.model import Namespace
from enrich.sources.factory import unknown_source

NAMESPACE: Final = "kube-system"
_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}"
_TIMEOUT_S: Final = 5.0


class UnknownClusterError(Exception):
    """The id cannot be found now; the message says why. Another attempt may find it."""


class FindClusterId(Protocol):
    """Returns the id, empty if the source has no namespace kube-system. Raises UnknownClusterError."""

    def __call__(self) -> str: ...


def cluster_id_finder(setting: str) -> FindClusterId:
    """Return a function that asks the source of ``setting`` (WEIR_SOURCE) for the cluster's id.

    Raises SourceError if the setting is wrong, or if there is no configuration of the Kubernetes API."""
    kind, _, rest = setting.partition(":")
    if kind == "manifests" and rest:
        return _in_folder(Path(rest))
    if setting == "kubernetes":
        return _at_api_server()
    raise unknown_source(setting)


def _in_folder(folder: Path) -> FindClusterId:
    from enrich.sources.manifest_documents import ManifestError  # noqa: PLC0415 - one source's libraries, not both
    from enrich.sources.manifest_files import read_folder  # noqa: PLC0415 - as above

    def find() -> str:
        try:
            found = read_folder(folder)
        except ManifestError as error:
            raise UnknownClusterError(str(error)) from error
        return next((made.uid for made in found if isinstance(made, Namespace) and made.name == NAMESPACE), "")

    return find


def _at_api_server() -> FindClusterId:
    import urllib3  # noqa: PLC0415 - as above

    from enrich.sources.client import AnswerError, Client  # noqa: PLC0415 - as above

    client = Client()
    client.connect()

    def find() -> str:
        try:
            with client.get(_PATH, {}, "application/json", _TIMEOUT_S) as response:
                return str(orjson.loads(response.read())["metadata"]["uid"])
        except AnswerError as error:
            raise UnknownClusterError(str(error)) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
            raise UnknownClusterError(f"{_PATH}: {error}") from error

    return find
