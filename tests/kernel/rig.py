"""A node with pods, the loaded programs and the real compiler and installer, for the kernel tests."""

from __future__ import annotations

import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from netns import Net, Space, run, run_in

from enrich.index.cluster import Cluster
from enrich.model import ClusterNetworkPolicy, Name, Namespace, NetworkPolicy, Node, Pod
from enrich.network_logging import NetworkLogging
from enrich.parse.objects import parse
from enrich.policy.matching import PolicyView
from enrich.wire.batch import INGRESS, Reason, Verdict
from probe.adoption import Adoption
from probe.export.ring import Ring
from probe.kernel.attach import Attachments, Mode
from probe.kernel.deny_windows import DenyWindows
from probe.kernel.endpoints import Bound, Surroundings
from probe.kernel.ends_layout import ENDS
from probe.kernel.generations import open_generation
from probe.kernel.installer import Installer
from probe.kernel.layout import CONNECTION, ENDPOINT_SIDES, Config
from probe.kernel.plan import Installed
from probe.kernel.tunnel_ports import set_tunnel_ports
from probe.ledger import Ledger
from probe.node.netlink import NodeNetwork
from probe.policy.compiler import Compiler
from probe.policy.own_node import OwnNode
from probe.settings import Settings
from probe.verdict_logging import VerdictLogging
from tests import programs

SIZES = {
    "RING_BYTES": 1 << 20,
    "CONNECTIONS": 65536,
    "ADDRESSES": 16384,
    "POLICY_ENTRIES": 16384,
    "PORT_ENTRIES": 16384,
    "DENIED_FLOWS": 4096,
    "ENDPOINTS": 256,
    "FRAGMENTS": 16384,
    "LOCAL_ADDRESSES": 8192,
}
WITH_ENDS = {**SIZES, ENDS: 1}
"""The programs that report connections (``bpf/ends.h``)."""
SMALL = {**SIZES, "CONNECTIONS": 4096}
"""Places for 16 pods with the limit below, and a reserve of four for each account of 256 pods."""
SMALL_LIMIT = 256
"""Connections that one pod may open of these."""
WINDOW_NS = 600 * 10**9
"""Longer than any test: a denied flow that is silent for a window would be a first one again."""
NODE = "n1"
NODE_IPS = ("192.0.2.1", "2001:db8:1::1")


@dataclass(frozen=True)
class Seen:
    """A verdict in words."""

    subject: str
    direction: str
    verdict: str
    reason: str
    source: str
    destination: str
    port: int
    count: int
    policies: tuple[str, ...]
    dialled: str
    dialled_port: int


class Rig:
    """One node. ``pods`` maps a name "namespace/name" to its namespace; policies are API objects."""

    def __init__(
        self,
        folder: Path,
        mode: Mode,
        pins: Path | None = None,
        net: Net | None = None,
        sizes: Mapping[str, int] = SIZES,
    ) -> None:
        self.folder = folder
        self.sizes = sizes
        self.net = net or Net()
        self.node = self.net.node(NODE_IPS)
        self._own_devices = _device_names(self.node)
        self.pins = pins or Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
        self.mode = mode
        self.pods: dict[str, Space] = {}
        self.objects: dict[str, Pod] = {}
        self.namespaces: dict[Name, Namespace] = {}
        self.policies: dict[Name, NetworkPolicy] = {}
        self.cluster_policies: dict[Name, ClusterNetworkPolicy] = {}
        self.others: dict[Name, Pod] = {}
        self.nodes: dict[Name, Node] = {}
        self.services: list[str] = []
        self.connect: Callable[..., Space] = self.net.pod
        self.open()

    def open(self) -> None:
        """Start as a probe does. After :meth:`crash`, start as the next probe does."""
        self.network = NodeNetwork(self.node.path)
        self.generation = open_generation(self.pins, self.sizes, programs.CACHE)
        self.maps = self.generation.maps
        self.maps.configure(Config.WINDOW_NS, WINDOW_NS)
        self.maps.configure(Config.POD_DENIED_FLOWS, 1000)
        self.maps.configure(Config.POD_CONNECTIONS, 4096)
        set_tunnel_ports(self.maps, Settings().tunnel_port_numbers())
        self.numbers = Ledger.open(self.folder / "ledger")
        for predecessor in self.generation.predecessors:
            for kind, highest in predecessor.numbers().items():
                self.numbers.reserve(kind, highest)
        self.compiler = Compiler(self.numbers)
        self.own_node = OwnNode()
        self.installer = Installer(self.maps)
        self._follow_logging()
        self.attachments = Attachments(self.maps, self.network, self.mode)
        self.attached: set[int] = set()
        """Interfaces that this probe has attached: the last one's programs are replaced."""
        self.windows = DenyWindows(self.maps)
        self.ring = Ring(self.maps)
        self.adoption = Adoption(self.maps, self.network)
        self._stop = threading.Event()
        self._adopting = threading.Thread(target=self.adoption.run, args=(self._stop,))
        self._adopting.start()

    def _follow_logging(self) -> None:
        """Log what the settings say, until a NetworkLogging is in ``logged``."""
        self.logged = Cluster(kinds={NetworkLogging})
        self.logging = VerdictLogging(self.logged, self.numbers, self.maps, self.compiler.desired.rules)

    def stop_adoption(self) -> None:
        """Stop the thread that looks connections up, for tests of an agent, which has its own."""
        self._stop.set()
        self._adopting.join()

    def crash(self) -> None:
        """Close all descriptors, as the kernel does for a killed process. Nothing is undone."""
        self.stop_adoption()
        self.ring.close()
        self.generation.close()
        self.network.close()
        self.numbers.close()

    def reset(self) -> None:
        """Remove all pods and policies. Numbers in the ledger are not reused."""
        for space in self.pods.values():
            self.net.remove(space)
        # A test may have made devices, and the kernel removes those of a deleted namespace some time later.
        for name in _device_names(self.node) - self._own_devices:
            run(self.node, "sh", "-c", f"ip link del {name} 2>/dev/null || ! ip link show {name} 2>/dev/null")
        for table in (
            self.pods,
            self.objects,
            self.policies,
            self.cluster_policies,
            self.namespaces,
            self.others,
            self.nodes,
        ):
            table.clear()
        self.services.clear()
        self.maps.configure(Config.POD_DENIED_FLOWS, 1000)
        self.maps.configure(Config.ANY_FRAME, 0)
        # A test's agent installs by itself. This installer finds what it left, and removes it.
        self.installer = Installer(self.maps)
        self._follow_logging()
        self.logged.replace(NetworkLogging, [])
        self.apply()
        for index in self.attachments.links():
            self.attachments.detach(index)
        # Room in the ring for what the windows counted.
        self.drain()
        # Windows of any age are over, so that none goes on in the next test.
        self.maps.configure(Config.WINDOW_NS, 0)
        self.windows.rotate()
        self.windows.rotate()
        self.maps.configure(Config.WINDOW_NS, WINDOW_NS)
        self.drain()

    def close(self) -> None:
        self.crash()
        self.net.close()
        shutil.rmtree(self.pins, ignore_errors=True)

    def pod(self, name: str, *addresses: str, labels: Mapping[str, str] | None = None, **spec: Any) -> Space:
        """Make a pod in the network and in the API."""
        self.namespace(name.split("/", maxsplit=1)[0])
        space = self.connect(self.node, *addresses)
        self.objects[name] = _pod(name, addresses, NODE, labels, spec)
        self.pods[name] = space
        return space

    def elsewhere(self, name: str, *addresses: str) -> None:
        """Make a pod of another node, in the API only."""
        self.namespace(name.split("/", maxsplit=1)[0])
        made = _pod(name, addresses, "n2", None, {})
        self.others[made.key] = made

    def namespace(self, name: str, annotations: Any = None, **labels: str) -> None:
        metadata = {"name": name, "labels": labels, "annotations": annotations}
        made = parse({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        assert isinstance(made, Namespace)
        if labels or annotations is not None or made.key not in self.namespaces:
            self.namespaces[made.key] = made

    def policy(self, name: str, annotations: Any = None, **spec: Any) -> None:
        """Create or replace a NetworkPolicy, "namespace/name"."""
        namespace, short = name.split("/")
        made = parse(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": short, "annotations": annotations},
                "spec": {"podSelector": {}, **spec},
            }
        )
        assert isinstance(made, NetworkPolicy)
        self.policies[made.key] = made

    def cluster_policy(self, name: str, annotations: Any = None, **spec: Any) -> None:
        """Create or replace a ClusterNetworkPolicy."""
        document = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
        metadata = {"name": name, "annotations": annotations}
        made = parse({**document, "metadata": metadata, "spec": {"subject": {"namespaces": {}}, **spec}})
        assert isinstance(made, ClusterNetworkPolicy)
        self.cluster_policies[made.key] = made

    def apply(self, *, older: bool = False) -> Installed:
        """Compile, install and attach, as the agent does. ``older``: the interfaces are older than the probe."""
        node = Node(NODE, "n1-uid", {}, NODE_IPS)
        pods = {pod.key: pod for pod in self.objects.values()} | self.others
        view = PolicyView(
            pods=pods,
            namespaces=dict(self.namespaces),
            nodes={node.key: node} | self.nodes,
            policies=dict(self.policies),
            cluster_policies=dict(self.cluster_policies),
            own_node=NODE,
        )
        services, held = frozenset(self.services), self.network.node_addresses()
        # The kernel gives a link its link-local address up to a second later, so that an installation that a test
        # counts might have one more.
        lasting = frozenset(address for address in held if not address.startswith("fe80:"))
        view = self.own_node.complete(view, lasting, services)
        desired = self.compiler.compile(view, list(self.objects.values()))
        bound = [
            Bound(
                self.pods[name].index,
                self.numbers.number_of(
                    "endpoint", pod.uid, {"namespace": pod.namespace, "pod": pod.name, "uid": pod.uid}
                ),
                pod.uid,
                pod.ips,
                older=older,
            )
            for name, pod in self.objects.items()
        ]
        around = Surroundings(services, held)
        self.logging.follow(view, list(self.objects.values()), bound)
        self.installer.before_switch = self.logging.write
        done = self.installer.apply(desired, bound, time.monotonic_ns(), around)
        for end in bound:
            if end.index not in self.attached or not self.attachments.is_attached(end.index):
                self.generation.carry()
                self.attachments.attach(end.index, bound=True)
                self.attached.add(end.index)
        self.attachments.attach_exits(self.network.devices(), {end.index for end in bound})
        self.generation.finish(self.attachments.move_rest)
        self.adoption.follow({end.index: end.number for end in bound})
        assert self.adoption.wait(120)
        return done

    def answer(self, name: str, direction: int, verdict: int, reason: int) -> None:
        """Change the default entries of a pod's set in the map, to answers that other kinds of policy compile to."""
        key = self.pods[name].index.to_bytes(4, "little")
        value = np.frombuffer(self.maps["endpoints"].items()[key], ENDPOINT_SIDES).copy()
        value["side"]["defaults"]["verdict"][:, :, direction] = verdict
        value["side"]["defaults"]["reason"][:, :, direction] = reason
        self.maps["endpoints"].set(key, value.tobytes())
        self.maps.configure(Config.EPOCH, self.maps.config(Config.EPOCH) + 2)

    def flows_of(self, name: str) -> np.ndarray[Any, np.dtype[np.void]]:
        """Return the keys of a pod's connections."""
        number = self.installer.endpoints[self.pods[name].index]
        keys, _ = self.maps["connections"].entries()
        found: np.ndarray[Any, np.dtype[np.void]] = keys[keys["endpoint"] == number]
        return found

    def edit_flows_of(self, name: str, change: Callable[[np.ndarray[Any, np.dtype[np.void]]], object]) -> None:
        """Change the entries of a pod's connections: ``change`` gets an array of each."""
        number, table = self.installer.endpoints[self.pods[name].index], self.maps["connections"]
        keys, values = table.entries()
        for key, value in zip(keys[keys["endpoint"] == number], values[keys["endpoint"] == number], strict=True):
            entry = np.array([value], CONNECTION)
            change(entry)
            table.set(key.tobytes(), entry.tobytes())

    def own_frame(self, index: int, frame: bytes) -> bytes:
        """Return a frame with the source that the pod at an interface must give it."""
        own = self.maps["link_addresses"].get(index.to_bytes(4, "little"))
        assert own is not None
        return frame[:6] + own["address"].tobytes() + frame[12:]

    def drain(self) -> np.ndarray[Any, np.dtype[np.void]]:
        """Return all verdicts in the ring, and release them. Those of earlier generations come first."""
        found = []
        for one in self.generation.predecessors:
            if (one.maps.folder / "events").exists():
                has_ended = one.retired.is_set()
                found.append(self._emptied(Ring(one.maps)))
                if has_ended:
                    one.remove()
        first, verdicts = self.ring.read(1 << 20)
        self.ring.release(first + len(verdicts))
        return np.concatenate([*found, verdicts]) if found else verdicts

    def _emptied(self, ring: Ring) -> np.ndarray[Any, np.dtype[np.void]]:
        first, verdicts = ring.read(1 << 20)
        ring.release(first + len(verdicts))
        ring.close()
        return verdicts

    def seen(self) -> list[Seen]:
        """Return all verdicts in the ring, in words, and release them."""
        return [self._in_words(verdict) for verdict in self.drain()]

    def _in_words(self, verdict: Any) -> Seen:
        end = self.numbers.meaning("endpoint", int(verdict["endpoint"])) or {"namespace": "?", "pod": "?"}
        rule = self.numbers.meaning("rule", int(verdict["rule"])) or ()
        return Seen(
            subject=f"{end['namespace']}/{end['pod']}",
            direction="ingress" if verdict["verdict"] & INGRESS else "egress",
            verdict=Verdict(verdict["verdict"] & 0x7F).name.lower(),
            reason=Reason(verdict["reason"]).name.lower(),
            source=_text(verdict["source"]),
            destination=_text(verdict["destination"]),
            port=int(verdict["destination_port"]),
            count=int(verdict["count"]),
            policies=tuple(f"{entry['namespace']}/{entry['name']}" for entry in rule),
            dialled=_text(verdict["dialled"]) if verdict["dialled"].any() else "",
            dialled_port=int(verdict["dialled_port"]),
        )


def _device_names(space: Space) -> set[str]:
    return run_in(space, lambda: {name for _, name in socket.if_nameindex()})


def _pod(
    name: str, addresses: Sequence[str], node: str, labels: Mapping[str, str] | None, spec: Mapping[str, Any]
) -> Pod:
    namespace, short = name.split("/")
    made = parse(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": namespace,
                "name": short,
                # Another each time: by it the kernel's endpoint has its number, and its connections.
                "uid": secrets.token_hex(8),
                "labels": dict(labels or {"app": short}),
            },
            "spec": {"nodeName": node, "containers": [{"name": "c", **spec}]},
            "status": {"podIPs": [{"ip": address} for address in addresses], "phase": "Running"},
        }
    )
    assert isinstance(made, Pod)
    return made


def of(verdicts: Iterable[Seen], **expected: Any) -> list[Seen]:
    """Return the verdicts whose fields are as expected."""
    return [one for one in verdicts if all(getattr(one, name) == value for name, value in expected.items())]


def _text(address: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    raw = address.tobytes()
    mapped = raw[:12] == bytes(10) + b"\xff\xff"
    return socket.inet_ntop(socket.AF_INET if mapped else socket.AF_INET6, raw[12:] if mapped else raw)


def both(rig: Rig, name: str, number: int, **spec: Any) -> Space:
    """Make a pod of both families: 10.244.0.N and fd44::N."""
    return rig.pod(name, f"10.244.0.{number}", f"fd44::{number:x}", **spec)


FAMILIES: Sequence[int] = (4, 6)
