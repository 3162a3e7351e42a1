"""Puts the settings into force that the programs read as words of ``config``."""

from __future__ import annotations

from probe.kernel.layout import LIMIT, Config
from probe.kernel.maps import Maps
from probe.kernel.tunnel_ports import set_tunnel_ports
from probe.node.netlink import NodeNetwork
from probe.settings import Settings


def configure(maps: Maps, settings: Settings, network: NodeNetwork) -> None:
    """Write the words, and the ports at which the node unwraps packets. What is logged and the window come later."""
    maps.configure(Config.POD_DENIED_FLOWS, settings.pod_denied_flows)
    maps.configure(Config.POD_CONNECTIONS, settings.pod_connections)
    maps.configure(Config.ENCAPSULATION, settings.encapsulation == "open")
    maps.configure(Config.LOCAL_SOURCE, settings.local_source == "unnamed")
    maps.configure(Config.ANY_FRAME, settings.pod_frames == "any")
    set_limits(maps, settings.limit_allowed, settings.limit_denied)
    maps.configure(Config.ANY_SOURCE_PORT, not settings.deny_source_port)
    own_ports = (device.tunnel_port for device in network.devices() if device.tunnel_port)
    set_tunnel_ports(maps, settings.tunnel_port_numbers().union(own_ports))


def set_limits(maps: Maps, allowed: int, denied: int) -> None:
    """Set how many verdicts are logged in a second (``bpf/limits.h``), and begin a second in which none was.

    What was logged in the last second would be a debt at a limit that is much lower now, and nothing would be logged
    until it is paid: for 100 s after a change from 10,000 to 100.
    """
    for index, (word, limit) in enumerate(((Config.LIMIT_ALLOWED, allowed), (Config.LIMIT_DENIED, denied))):
        maps.configure(word, limit)
        maps["limits"].set(index.to_bytes(4, "little"), bytes(LIMIT.itemsize))
