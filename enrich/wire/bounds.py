"""Types of the fields that travel on topics, with the values that they may have.

Whoever may write to a topic may write anything, and a value that no sender of ours makes must not reach code that takes
it for granted: an arithmetic, an array of fixed width, a topic's name, a metric's label. So each decoder of
:mod:`enrich.wire` uses these types, and a record outside them is refused where it is decoded, as a whole.

Names have the form that the Kubernetes API gives them (RFC 1123 labels and subdomains, at most 63 and 253 characters).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
from msgspec import Meta, ValidationError, convert

# ``\A`` and ``\Z``, because msgspec searches, and ``$`` also matches before a newline at the end.
_SUBDOMAIN = r"\A[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z"

MAX_COUNT: Final = (1 << 63) - 1
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
"""An amount, or a number in a sequence."""
Small = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
"""What the kernel keeps in 32 bits."""
Port = Annotated[int, Meta(ge=0, le=(1 << 16) - 1)]
Octet = Annotated[int, Meta(ge=0, le=(1 << 8) - 1)]
_TIME_LIMIT_NS: Final = 1 << 62
Nanoseconds = Annotated[int, Meta(ge=0, le=_TIME_LIMIT_NS - 1)]
"""A time of the wall clock since the epoch. The sum of two fits 64 bits."""
Seconds = Annotated[float, Meta(ge=0, lt=1 << 37)]
"""A time since the epoch; a later one has a year that RFC 3339 cannot write."""
Offset = Annotated[int, Meta(gt=-_TIME_LIMIT_NS, lt=_TIME_LIMIT_NS)]
"""The difference of two clocks in nanoseconds."""

Cluster = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"\A[!-~]*\Z")]
"""WEIR_CLUSTER: a UID, a name or an ARN."""
Node = Annotated[str, Meta(max_length=253, pattern=r"\A[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?\Z")]
"""A node's name. Outside Kubernetes it is a host name, which may have capitals."""
RingId = Annotated[str, Meta(max_length=64, pattern=r"\A[!-~]+\Z")]
Namespace = Annotated[str, Meta(max_length=63, pattern=r"\A[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")]
NamespaceOrNone = Annotated[str, Meta(max_length=63, pattern=r"\A([a-z0-9]([-a-z0-9]*[a-z0-9])?)?\Z")]
"""Empty for an object that belongs to no namespace."""
ObjectName = Annotated[str, Meta(max_length=253, pattern=_SUBDOMAIN)]
Uid = Annotated[str, Meta(max_length=128, pattern=r"\A[-A-Za-z0-9._:]*\Z")]
Kind = Annotated[str, Meta(max_length=63, pattern=r"\A[A-Za-z]+\Z")]
Number = Annotated[str, Meta(max_length=10, pattern=r"\A[0-9]+\Z")]
"""A number of the kernel's, in decimal, as a key of a JSON object."""
LossReason = Annotated[str, Meta(max_length=63, pattern=r"\A[a-z][a-z0-9_]*\Z")]
LabelKey = Annotated[str, Meta(max_length=317, pattern=r"\A[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?\Z")]
LabelValue = Annotated[str, Meta(max_length=63, pattern=r"\A([A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?)?\Z")]


def is_namespace(name: str) -> bool:
    """Return whether Kubernetes lets a namespace have this name."""
    try:
        convert(name, Namespace)
    except ValidationError:
        return False
    return True


def are_times(earliest: int, latest: int, clock: int) -> bool:
    """Return whether a kernel's times, with the offset of its clock, are those of the wall clock after 1970, so that
    sums of them fit 64 bits."""
    return latest < _TIME_LIMIT_NS and earliest + clock >= 0


def are_in_time(times: np.ndarray[Any, Any], clock: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the same of each of many times."""
    earliest = np.uint64(max(0, -clock))
    found: np.ndarray[Any, np.dtype[np.bool_]] = (times >= earliest) & (times < np.uint64(_TIME_LIMIT_NS))
    return found
