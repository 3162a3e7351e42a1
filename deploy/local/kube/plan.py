"""Names, addresses and options of a cluster. `down` finds by these names everything that the cluster has made."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
HOME: Final = Path("/var/lib/kubeweir-cluster")
"""The folder of all the cluster's files. It is on disk, because images are unpacked here."""
CACHE: Final = Path(os.environ.get("KUBEWEIR_CACHE") or "/var/cache/kubeweir")
BRIDGE: Final = "weir-cluster"
HOST_4, HOST_6 = "10.99.0.1", "fd99::1"
"""This machine's addresses on the nodes' network, where the nodes reach the API server and Kafka."""
API_PORT: Final = 6443
SERVICES: Final = ("10.96.0.0/16", "fd96::/112")
PODS: Final = ("10.244.0.0/16", "fd44::/48")
CNIS: Final = ("ptp", "bridge")
PROXIES: Final = ("nftables", "iptables")
_NODE_PREFIX: Final = "weir-node-"


class ClusterError(RuntimeError):
    """The cluster cannot be made or used; the message says why and what to do. ``code`` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Node:
    """A node. Its network namespace and the machine's end of its veth pair have its name too."""

    number: int

    @property
    def name(self) -> str:
        return f"{_NODE_PREFIX}{self.number}"

    @property
    def addresses(self) -> tuple[str, str]:
        """The node's IPv4 and IPv6 address."""
        return f"10.99.0.{10 + self.number}", f"fd99::{10 + self.number}"

    @property
    def pods(self) -> tuple[str, str]:
        """The IPv4 and IPv6 range of the node's pods."""
        return f"10.244.{self.number}.0/24", f"fd44:0:0:{self.number}::/64"

    @property
    def home(self) -> Path:
        return HOME / self.name


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of ``up``."""

    count: int = 2
    cni: str = "ptp"
    proxy: str = "nftables"

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(number) for number in range(1, self.count + 1))

    def save(self) -> None:
        """Save the plan for later commands."""
        (HOME / "plan.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def saved(cls) -> Plan | None:
        """Return the plan of the existing cluster, or None if there is no cluster."""
        try:
            return cls(**json.loads((HOME / "plan.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"{self.count} nodes, CNI {self.cni}, kube-proxy {self.proxy}"


def is_node(name: str) -> bool:
    """Return whether a namespace or link belongs to a node."""
    return name.startswith(_NODE_PREFIX)


def kubeconfig(user: str = "admin") -> Path:
    """Return the path of a user's kubeconfig."""
    return HOME / f"kubeconfig-{user.replace(':', '-')}"
