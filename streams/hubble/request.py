"""What a request for flows asks for, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from streams.hubble.filters import FlowFilters
from streams.hubble.flow_form import Mask, parse_mask
from streams.hubble.messages import unknown_numbers

MAX_NUMBER: Final = 10_000
"""The last or first records that are kept in memory for an answer."""
_ALL: Final = 1 << 63
"""A number from here on means everything: `hubble observe --all` sends the largest one."""
_MAX_SECONDS: Final = 253_402_300_799
"""The end of the year 9999."""
_AHEAD: Final = timedelta(minutes=1)
"""How much later than here it may be at the client."""


class RequestError(ValueError):
    """A request contradicts itself, or asks for more than is answered. The message says which field."""


@dataclass(frozen=True, slots=True)
class FlowsRequest:
    """A request whose fields fit together."""

    filters: FlowFilters
    mask: Mask
    follows: bool
    number: int
    """How many records at most; 0: all."""
    is_first: bool
    since: datetime | None
    """None, and no number: from the oldest record on, or, if it follows, from now on."""
    until: datetime | None

    @property
    def is_of_a_time(self) -> bool:
        """Whether it asks for the records of a time, and not for the first or last ones."""
        is_everything = not self.number and not self.follows
        return self.since is not None or self.until is not None or is_everything


def read_request(request: Any, labels: Sequence[str], now: datetime) -> FlowsRequest:
    """Return what a GetFlowsRequest asks for; ``labels`` as for FlowFilters. Raises ValueError, whose text names the
    field."""
    for number in unknown_numbers(request):
        raise RequestError(f"this server does not know the field with the number {number} of a request for flows")
    if request.HasField("extensions"):
        raise RequestError("extensions: this server knows none")
    if request.first and request.follow:
        raise RequestError("first and follow cannot be used together")
    if request.follow and request.HasField("until"):
        raise RequestError("until and follow cannot be used together: what comes has no end")
    since = _time(request, "since")
    until = _time(request, "until")
    if since is not None and since > now + _AHEAD and not request.follow:
        raise RequestError(f"since is in the future ({since:%FT%TZ}), where no flows are; with follow it waits")
    if since is not None and until is not None and until <= since:
        raise RequestError("until is not after since, so that no flow fits")
    number = 0 if request.number >= _ALL else request.number
    if number > MAX_NUMBER:
        raise RequestError(f"number is {number}: at most {MAX_NUMBER} are counted off; use since, or ask for all")
    if request.first and not number and since is None:
        raise RequestError("first needs a number")
    return FlowsRequest(
        FlowFilters(request.whitelist, request.blacklist, labels),
        parse_mask(request.field_mask.paths),
        follows=request.follow,
        number=number,
        is_first=request.first,
        # Everything, and then what comes.
        since=since or (datetime.fromtimestamp(0, UTC) if request.follow and request.number >= _ALL else None),
        until=until,
    )


def _time(request: Any, field: str) -> datetime | None:
    if not request.HasField(field):
        return None
    found = getattr(request, field)
    if not 0 <= found.seconds <= _MAX_SECONDS or not 0 <= found.nanos < 1_000_000_000:
        raise RequestError(f"{field} is no time between 1970 and 9999")
    return datetime.fromtimestamp(found.seconds, UTC) + timedelta(microseconds=found.nanos // 1000)
