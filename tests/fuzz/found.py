"""Records that ended a reader, as small as they get. Each is the topic and the value."""

from __future__ import annotations

from typing import Final

FOUND: Final[tuple[tuple[str, bytes], ...]] = (("status", b"[" * 5000),)
