"""Warnings that go on: each is logged when it begins, and again every half minute while it lasts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import structlog

log = structlog.get_logger("kubeweir.probe")

_REPEAT_S: Final = 30.0


class LastingWarnings:
    """Rate limits the warnings of one caller."""

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    def report(self, current: Mapping[str, tuple[str, str]]) -> None:
        """Log the warnings that are due. ``current`` has all of this moment: event and reason by what they concern."""
        now = time.monotonic()
        self._logged_at = {what: at for what, at in self._logged_at.items() if what in current}
        for what, (event, reason) in current.items():
            if now - self._logged_at.get(what, -_REPEAT_S) >= _REPEAT_S:
                self._logged_at[what] = now
                log.warning(event, what=what, reason=reason)
