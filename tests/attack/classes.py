"""All classes of attacks. A new module of them is a line here."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from tests.attack.tally import ATTACKS

_MODULES: Final = (
    "frames",
    "mid_flow",
    "lookups",
    "interfaces",
    "starting",
    "moments",
    "destinations",
    "revoked",
    "tunnels",
    "exhaustion",
)

for _name in _MODULES:
    import_module(f"tests.attack.{_name}")

__all__ = ["ATTACKS"]
