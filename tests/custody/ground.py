"""Two nodes with pods, an outside host and Services; real probes, Kafka and worker; captures at all ends."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from netns import Net, Space

from tests.chaos.api import LocalApi
from tests.custody.capture import Captures
from tests.custody.nodes import Node, add_routes, make_nodes, remove_routes
from tests.custody.packets import TCP, UDP
from tests.custody.script import CLUSTER, NAMESPACE, NODES, Host, Script
from tests.custody.script import Service as ServicePort
from tests.e2e.node import Broker, Probe
from tests.kafka.site import Service, Site

WORLD: Final = ("198.51.100.7", "2001:db8:7::7")
"""The outside host's addresses. It is behind the first node."""
LASTING: Final = {"client-1": ("client", "n1", 1), "client-2": ("client", "n2", 2), "server-1": ("server", "n1", 3),
                  "server-2": ("server", "n2", 4), "marker-1": ("marker", "n1", 8),
                  "marker-2": ("marker", "n2", 9)}  # fmt: skip
"""The pods that live as long as the run: label, node and number. Nobody sends to the markers."""
BACKENDS: Final = {"echo": "server-1", "echo-2": "server-2"}
"""The pod behind each Service, one on each node."""
VIPS: Final = {"echo": ("10.96.0.10", "fd96::a"), "echo-2": ("10.96.0.11", "fd96::b")}
_PORTS: Final = ((TCP, 80, 8001), (UDP, 90, 9001))
_COMPILED_S: Final = 900
"""A probe with a size of its own compiles the programs: 20 s of CPU, which were 227 s beside thirty other processes."""
SIZES: Final[tuple[dict[str, str], ...]] = ({}, {"WEIR_CONNECTIONS": "131072"})
"""Sizes of the table of connections. A probe with another one than the last takes over from another generation."""


class Ground:
    """Makes everything when it is made, and ends everything in :meth:`close`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.script, self.captures = folder, Script(), Captures()
        self._closing = contextlib.ExitStack()
        self._closing.callback(self.captures.close)
        self._lock = threading.Lock()
        self.spaces: dict[str, Space] = {}
        """The namespaces of all hosts, by name."""
        self.nodes: dict[str, Node] = {}
        self._serial = itertools.count(1)
        self._pods: dict[str, dict[str, Any]] = {}
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.broker = Broker(self.folder)
        # A broker ends with the thread that has started it (PR_SET_PDEATHSIG), so one thread lives as long as the run.
        self._starter = self._closing.enter_context(ThreadPoolExecutor(1))
        self._closing.callback(self.broker.stop)
        starting = self.start_broker()
        self.api = LocalApi(CLUSTER, ())
        self._closing.callback(self.api.close)
        self.net = Net()
        self._closing.callback(self.net.close)
        self.nodes = make_nodes(self.net, self.folder)
        for node in self.nodes.values():
            self._closing.callback(shutil.rmtree, node.pins, ignore_errors=True)
        self._know_nodes()
        for name, (app, at, _) in LASTING.items():
            self.announce(name, app, at)
        starting.result()
        self.site = Site(
            self.broker.address, f"custody{secrets.token_hex(4)}", self.folder,
            settings={"WEIR_SOURCE": "kubernetes", "WEIR_CLUSTER": CLUSTER,
                      "KUBECONFIG": str(self.api.kubeconfig(self.folder))},
        )  # fmt: skip
        self._closing.callback(self.site.end)
        for node, sizes in zip(self.nodes.values(), SIZES, strict=True):
            # Each with its own, so that no probe has to compile programs while the traffic runs.
            self.start_probe(node.name, **sizes)
        for node in self.nodes.values():
            node.probe.wait_for("started", _COMPILED_S)
        self.start_worker()
        for name, (_, _, number) in LASTING.items():
            self.connect(name, f"10.244.0.{number}", f"fd44::{number:x}")
            self.publish(name)
        self._make_services()
        for node in self.nodes.values():
            node.wait_until_bound(sum(at == node.name for _, at, _ in LASTING.values()))

    def _know_nodes(self) -> None:
        """Put the nodes into the API, and the outside host behind the first one."""
        for node in self.nodes.values():
            addresses = [{"type": "InternalIP", "address": address} for address in node.space.addresses]
            self.api.set("Node", {"name": node.name, "uid": f"uid-{node.name}"}, status={"addresses": addresses})
            self.script.hosts.append(node.host())
            self.spaces[node.name] = node.space
        first = self.nodes[NODES[0]]
        self.spaces["world"] = world = self.net.pod(first.space, *WORLD, name="world")
        add_routes(self.nodes, first.name, WORLD)
        first.foreign.append(world.link)
        self.script.hosts.append(Host("world", WORLD, place="world"))
        self.captures.add(world, "world")

    def _make_services(self) -> None:
        """Let the Services' addresses lead to pods on every node, as kube-proxy does."""
        rules = []
        for service, name in BACKENDS.items():
            for address, to in zip(VIPS[service], self.host(name).addresses, strict=True):
                family, target = ("ip6", f"[{to}]") if ":" in to else ("ip", to)
                for protocol, port, at in _PORTS:
                    word = {TCP: "tcp", UDP: "udp"}[protocol]
                    rules.append(f"{family} daddr {address} {word} dport {port} dnat {family} to {target}:{at}")
                    self.script.services.append(ServicePort(protocol, address, port, to, at, service))
            ports = [{"name": f"p{port}", "protocol": {TCP: "TCP", UDP: "UDP"}[protocol], "port": port,
                      "targetPort": at} for protocol, port, at in _PORTS]  # fmt: skip
            spec = {"type": "ClusterIP", "clusterIP": VIPS[service][0], "clusterIPs": list(VIPS[service]),
                    "ports": ports}  # fmt: skip
            self.api.set("Service", {"name": service, "namespace": NAMESPACE, "uid": f"uid-{service}"}, spec=spec)
        chain = f"chain pre {{ type nat hook prerouting priority dstnat; {'; '.join(rules)}; }}"
        for node in self.nodes.values():
            nft = ["nsenter", f"--net={node.space.path}", "nft", "-f", "-"]
            subprocess.run(nft, input=f"table inet proxy {{ {chain}\n }}", text=True, check=True)

    # --- pods: the order of things is a kubelet's

    def host(self, name: str) -> Host:
        """Return a host by its name."""
        return next(host for host in self.script.hosts if host.name == name)

    def announce(self, name: str, app: str, node: str) -> None:
        """Create a pod in the API, scheduled to a node."""
        uid = f"uid-{name}"
        with self._lock:
            self.script.hosts.append(Host(name, (), app, uid, name, node))
        pod: dict[str, Any] = {
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
            "begun": _text(),
        }
        self._pods[name] = pod
        self.api.set("Pod", pod["metadata"], spec=pod["spec"], status={"phase": "Pending"})

    def connect(self, name: str, *addresses: str) -> None:
        """Make the pod's interface."""
        host = self.host(name)
        host.addresses, host.begun = addresses, time.time_ns()
        with self._lock:
            node = self.nodes[host.node].space
            self.spaces[name] = self.net.pod(node, *addresses, name=f"p{next(self._serial)}")
            add_routes(self.nodes, host.node, addresses)
        self.captures.add(self.spaces[name], name)

    def publish(self, name: str) -> None:
        """Tell the API which addresses the pod has."""
        pod, host = self._pods[name], self.host(name)
        ready = {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": _text()}
        status = {"podIP": host.addresses[0], "podIPs": [{"ip": address} for address in host.addresses],
                  "phase": "Running", "startTime": pod["begun"], "conditions": [ready]}  # fmt: skip
        self.api.set("Pod", pod["metadata"], spec=pod["spec"], status=status)

    def disconnect(self, name: str) -> None:
        """Delete the pod's interface."""
        with self._lock:
            host = self.host(name)
            self.net.remove(self.spaces.pop(name))
            remove_routes(self.nodes, host.node, host.addresses)
        host.gone = time.time_ns()
        self.captures.remove(name)

    def delete(self, name: str) -> None:
        """Delete the pod in the API."""
        self.api.delete("Pod", name)
        del self._pods[name]

    # --- services

    def start_broker(self) -> Future[None]:
        """Start Kafka; the future is done when it answers."""
        return self._starter.submit(self.broker.start)

    def probes(self) -> list[Probe]:
        """Return all probes that were started."""
        return [probe for node in self.nodes.values() for probe in node.probes]

    def start_probe(self, node: str, **settings: str) -> None:
        """Start a probe on a node. The one before must have ended."""
        env = self.site.env(WEIR_UNKNOWN="closed", WEIR_POD_CIDRS="10.244.0.0/16,fd44::/64", WEIR_DENY_WINDOW="1",
                            **settings)  # fmt: skip
        self.nodes[node].start_probe(env)

    def start_worker(self) -> None:
        """Start a worker. The one before must have ended."""
        # Probes on a busy machine may say who has an address five seconds late, and so may the API server.
        self.worker: Service = self.site.start("enrich", "--alone", WEIR_ATTRIBUTION_WAIT="30")

    def close(self) -> None:
        """End everything, also what has started only in part."""
        for probe in self.probes():
            if probe.process.poll() is None:
                probe.kill()
        self._closing.close()


def _text() -> str:
    return datetime.fromtimestamp(int(time.time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
