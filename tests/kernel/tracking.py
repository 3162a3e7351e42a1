"""Connection tracking on a node: nf_conntrack works in a network namespace only if a rule there asks for it."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from netns import Space, run_in

_CTNETLINK_DELETE = 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE: without a tuple it deletes all entries."""
_REQUEST_ACK = 0x5
_TABLE = """table inet tracked {
chain pre { type filter hook prerouting priority filter; ct state invalid accept; }
chain out { type filter hook output priority filter; ct state invalid accept; }
}"""


def forget_flows(node: Space) -> None:
    """Delete all entries of nf_conntrack, as if they had timed out."""
    message = struct.pack("=IHHIIBBH", 20, _CTNETLINK_DELETE, _REQUEST_ACK, 1, 0, 0, 0, 0)
    with run_in(node, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)) as asking:
        asking.send(message)
        code = struct.unpack_from("=i", asking.recv(4096), 16)[0]
    assert code == 0, code


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
