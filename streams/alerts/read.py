"""The file of alert rules, read; and the built-in rules, which it may replace or switch off."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Final

import msgspec

from streams.alerts.check import check
from streams.alerts.model import Alerts, Rule
from streams.config.yaml_file import read_checked

_DEFAULTS: Final = Path(__file__).with_name("defaults.yaml")


@cache
def builtin() -> tuple[Rule, ...]:
    """The built-in rules."""
    return tuple(read_checked(_DEFAULTS.read_bytes(), _DEFAULTS.name, Alerts, partial(check, builtin=())).rules)


def read(content: bytes, name: str) -> Alerts:
    """What a file's content says. ``name`` is the file's. Raises FileError."""
    return read_checked(content, name, Alerts, partial(check, builtin=[rule.name for rule in builtin()]))


def in_force(alerts: Alerts) -> Alerts:
    """The file with the built-in rules that it leaves in force."""
    own = {rule.name for rule in alerts.rules}
    kept = [rule for rule in builtin() if rule.name not in own and rule.name not in alerts.disable]
    return msgspec.structs.replace(alerts, rules=[*kept, *alerts.rules])
