"""Connection tracking on a node: nf_conntrack works in a network namespace only if a rule there asks for it."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from netns import Space, run_in

from probe.node.netlink_messages import CHANGE, request

_CTNETLINK_DELETE = 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE: without a tuple it deletes all entries."""
_TABLE = """table inet tracked {
chain pre { type filter hook prerouting priority filter; ct state invalid accept; }
chain out { type filter hook output priority filter; ct state invalid accept; }
}"""


def forget_flows(node: Space) -> None:
    """Delete all entries of nf_conntrack, as if they had timed out."""
    with run_in(node, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)) as asking:
        for _ in request(asking, _CTNETLINK_DELETE, CHANGE, struct.pack("=BBH", 0, 0, 0)):
            pass  # nothing answers but the acknowledgement


@contextmanager
def tracking(node: Space, *, on: bool = True) -> Iterator[None]:
    """Have the node track connections, or have it forget what it has tracked."""
    forget_flows(node)
    if not on:
        yield
        return
    _nft(node, _TABLE)
    try:
        yield
    finally:
        _nft(node, "delete table inet tracked")
        forget_flows(node)


def _nft(node: Space, commands: str) -> None:
    subprocess.run(["nsenter", f"--net={node.path}", "nft", "-f", "-"], input=commands, text=True, check=True)
