"""All classes of attacks. A new module of them is imported here."""

from __future__ import annotations

from tests.attack import frames, interfaces, mid_flow, moments, revoked, starting, tunnels
from tests.attack.tally import ATTACKS

__all__ = ["ATTACKS", "frames", "interfaces", "mid_flow", "moments", "revoked", "starting", "tunnels"]
