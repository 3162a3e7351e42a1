"""Which records of a topic a sink wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enrich.wire.whose import cluster_named, cluster_of_alert, is_foreign


@dataclass(frozen=True, slots=True)
class Feed:
    """The records that a sink wants."""

    name: str
    """The sink's name in logs and metrics."""
    takes: Callable[[bytes], bool]
    """Return whether the sink wants a record. Raises ValueError for a value that is not a record."""
    is_own: Callable[[bytes], bool] = lambda _: True
    """Return False for the records of other clusters on the same topic, which are counted and skipped. It is asked
    before ``takes``, because another cluster may write records that this version does not know."""


def is_own_record(cluster: str, value: bytes) -> bool:
    """Return False if a flow record names another cluster; an empty ``cluster`` owns every record."""
    return not cluster or not is_foreign(cluster_named(value), cluster)


def is_own_alert(cluster: str, value: bytes) -> bool:
    """Return False if an alert record is about another cluster; an empty ``cluster`` owns every record."""
    return not cluster or not is_foreign(cluster_of_alert(value), cluster)
