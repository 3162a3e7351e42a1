"""Ends enforcement on a node, with everything that describes it."""

from __future__ import annotations

from typing import Final

from probe.cni.plugin import SOCKET, uninstall
from probe.kernel.detach import detach
from probe.node.netlink import NodeNetwork
from probe.settings import Settings

_STATE_FILES: Final = ("ledger", "address-intervals", "ledger.pods", "ledger.assignments", "ledger.left", SOCKET)
"""Files in the run folder that describe what is pinned."""


def end_enforcement(settings: Settings, network: NodeNetwork) -> int:
    """End enforcement and delete the files that describe it; return how many interfaces were under policy.

    The CNI plugin goes first: without a probe, it would let no pod start.
    """
    uninstall(settings)
    freed = detach(settings.pin_dir, network)
    for name in _STATE_FILES:
        (settings.run_dir / name).unlink(missing_ok=True)
    return freed
