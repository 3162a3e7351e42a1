"""Parses GKE's NetworkLogging, and refuses what its CustomResourceDefinition would refuse."""

from __future__ import annotations

from enrich.network_logging import ONLY_NAME, LogClass, LoggingSpec, NetworkLogging
from enrich.parse.cursor import Field
from enrich.parse.metadata import uid_of


def network_logging(root: Field) -> NetworkLogging:
    """Parse a networking.gke.io/v1alpha1 NetworkLogging. What is not written is false."""
    name = root["metadata"]["name"]
    if name.name() != ONLY_NAME:
        name.refuse(f"must be {ONLY_NAME}, is {name.value!r}: a cluster has one at most")
    cluster = root["spec"]["cluster"]
    return NetworkLogging(
        ONLY_NAME, uid_of(root, ""), LoggingSpec(_log_class(cluster["allow"]), _log_class(cluster["deny"]))
    )


def _log_class(field: Field) -> LogClass:
    log, delegate = field["log"].boolean(), field["delegate"].boolean()
    if delegate and not log:
        field["delegate"].refuse("needs `log: true`, because annotations choose among what is logged")
    return LogClass(log, delegate)
