"""Types of fields that the files people write have in common, and what their patterns mean in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

_DURATION: Final = r"^[1-9][0-9]{0,5}[smhd]$"
_NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Duration = Annotated[str, Meta(pattern=_DURATION, description="A number and a unit: s, m, h or d.")]
EntryName = Annotated[str, Meta(pattern=_NAME)]
"""The name of a route, a rule or an output. It is part of consumer groups and metrics, so it is a DNS label."""
Positive = Annotated[int, Meta(ge=1)]
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a text must be like."""

    pattern: str
    words: str
    example: str
    """A text that matches; {} may be replaced by any number."""
    quotable: str = r"(?s).*"
    """What a text must be like that a message quotes: a mistyped address may have a password."""

    def matches(self, text: str) -> bool:
        """Return whether a text matches, as msgspec and the schema see it."""
        return re.search(self.pattern, text) is not None

    def mistake(self, text: str) -> str:
        """Return a message about a text that does not match."""
        return f"must be {self.words}{f'; is {text!r}' if re.fullmatch(self.quotable, text) else ''}"


PATTERNS: Final[Mapping[str, Pattern]] = {
    one.pattern: one
    for one in (
        Pattern(_DURATION, "a whole number and a unit, such as 90s, 5m, 2h or 3d", "1m"),
        Pattern(r"^[0-9]{1,6}[smhd]$", "a whole number and a unit, such as 90s, 5m, 2h or 3d, or 0s", "1m"),
        Pattern(_NAME, "up to 63 lower-case letters, digits and '-', and begin and end with a letter or digit", "x{}"),
        Pattern(r"^[0-9]{1,5}-[0-9]{1,5}$", "a port such as 80, or a range such as 8000-8080", "1-2"),
        Pattern(
            r"^https?://[^ ]+$", "a URL that begins with http:// or https://", "http://x{}/v1/logs", r"\w+://[^/?#@]*"
        ),
        Pattern(
            r"^[a-zA-Z_][a-zA-Z0-9_]*$", "a name of letters, digits and '_' that does not begin with a digit", "x{}"
        ),
    )
}
"""The patterns of all fields. A test compares them with the types."""


def seconds(duration: str) -> int:
    """Return the seconds in a :data:`Duration`: 90 for ``90s``, 300 for ``5m``, 7200 for ``2h``, 259200 for ``3d``."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]
