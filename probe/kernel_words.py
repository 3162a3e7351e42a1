"""Puts the settings into force that the programs read as words of ``config``."""

from __future__ import annotations

from probe.kernel.layout import Config
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
    maps.configure(Config.LIMIT_ALLOWED, settings.limit_allowed)
    maps.configure(Config.LIMIT_DENIED, settings.limit_denied)
    maps.configure(Config.ANY_SOURCE_PORT, not settings.deny_source_port)
    own_ports = (device.tunnel_port for device in network.devices() if device.tunnel_port)
    set_tunnel_ports(maps, settings.tunnel_port_numbers().union(own_ports))
