"""Read a file of alert rules, and combine it with the built-in rules."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Final

import msgspec

from streams.alerts.check import check
from streams.alerts.model import AlertRule, Alerts
from streams.config.yaml_file import read_checked

_DEFAULTS: Final = Path(__file__).with_name("defaults.yaml")


@cache
def builtin() -> tuple[AlertRule, ...]:
    """Return the built-in rules (``defaults.yaml``)."""
    return tuple(read_checked(_DEFAULTS.read_bytes(), _DEFAULTS.name, Alerts, partial(check, builtin=())).rules)


def read(content: bytes, name: str) -> Alerts:
    """Parse the content of the file called ``name``. Raises FileError."""
    return read_checked(content, name, Alerts, partial(check, builtin=[rule.name for rule in builtin()]))


def in_force(alerts: Alerts) -> Alerts:
    """Add the built-in rules that the file neither replaces nor disables."""
    own = {rule.name for rule in alerts.rules}
    defaults = [rule for rule in builtin() if rule.name not in own and rule.name not in alerts.disable]
    return msgspec.structs.replace(alerts, rules=[*defaults, *alerts.rules])
