"""Which cluster a record names, read without decoding the rest of it.

Several clusters may share topics, and one of them may run another version: a record of theirs must be skipped even if
this version cannot decode it.
"""

from __future__ import annotations

from typing import Final

import msgspec


class _Named(msgspec.Struct):
    cluster: str = ""


class _Alert(msgspec.Struct):
    group: _Named


_DECODE_NAMED: Final = msgspec.json.Decoder(_Named).decode
_DECODE_ALERT: Final = msgspec.json.Decoder(_Alert).decode


def cluster_named(text: bytes) -> str:
    """Return the cluster that a flow or status record, or the header of a batch, names.

    Empty if it names none, or is not a JSON object."""
    try:
        return _DECODE_NAMED(text).cluster
    except (ValueError, RecursionError):
        return ""


def cluster_of_alert(text: bytes) -> str:
    """Return the cluster that an alert record names in its group; empty as in :func:`cluster_named`."""
    try:
        return _DECODE_ALERT(text).group.cluster
    except (ValueError, RecursionError):
        return ""


def is_foreign(named: str, own: str) -> bool:
    """Return whether a record that names a cluster is another's. Without a name on both sides this is not known."""
    return bool(own) and bool(named) and named != own
