"""The addresses of a node's tunnel and bridge."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.model import Node, Service
from enrich.parse.objects import parse

CALICO = "projectcalico.org/"


def node(annotations: Any, *cidrs: str) -> Node:
    found = parse({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": annotations},
        "spec": {"podCIDRs": list(cidrs)} if cidrs else {},
    })  # fmt: skip
    assert isinstance(found, Node)
    return found


@pytest.mark.parametrize(
    ("annotations", "ips"),
    [
        (None, ()),
        ({"flannel.alpha.coreos.com/public-ip": "192.0.2.1"}, ("192.0.2.1",)),
        ({f"{CALICO}IPv4VXLANTunnelAddr": "10.0.3.64", f"{CALICO}IPv4Address": "192.0.2.1/24"},
         ("192.0.2.1", "10.0.3.64")),
        ({"network.cilium.io/ipv6-cilium-host": "FD00:0::7"}, ("fd00::7",)),
        ({"network.cilium.io/ipv4-cilium-host": "no address", "other/ip": "192.0.2.1"}, ()),
        ({"network.cilium.io/ipv4-cilium-host": ["192.0.2.1"]}, ()),
    ],
)  # fmt: skip
def test_annotations_of_plugins_name_tunnels(annotations: Any, ips: tuple[str, ...]) -> None:
    assert node(annotations).tunnel_ips == ips


def test_the_first_two_addresses_of_a_range_are_reserved() -> None:
    first = ("10.0.3.0", "10.0.3.1", "fd00:3::", "fd00:3::1")
    assert node(None, "10.0.3.0/24", "fd00:3::/64").reserved_ips == first
    assert node({f"{CALICO}IPv4Address": "192.0.2.1/24"}, "10.0.3.0/24").reserved_ips == ()
    assert node({"network.cilium.io/ipv4-cilium-host": "10.0.3.9"}, "10.0.3.0/24").reserved_ips == ()
    both = {f"{CALICO}IPv4Address": "192.0.2.1/24", "flannel.alpha.coreos.com/public-ip": "192.0.2.1"}
    assert node(both, "10.0.3.0/24").reserved_ips == first[:2]
    assert node(None, "10.0.3.0/31").reserved_ips == ()


def test_the_ports_of_a_service() -> None:
    found = parse({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]},
    })  # fmt: skip
    assert isinstance(found, Service)
    assert found.ports == ((6, 80), (17, 53))
