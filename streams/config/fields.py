"""Types of fields that the files people write have in common. msgspec checks them and says where a value is wrong."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

Duration = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,5}[smhd]$", description="A number and a unit: s, m, h or d.")]
EntryName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""The name of a route, a rule or an output. It is part of consumer groups and metrics, so it is a DNS label."""
Positive = Annotated[int, Meta(ge=1)]
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> int:
    """Return the seconds in a :data:`Duration`: 90 for ``90s``, 300 for ``5m``, 7200 for ``2h``, 259200 for ``3d``."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]
