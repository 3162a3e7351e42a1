"""A node with pods, an outside host and a Service; real probe, Kafka and worker; captures at all ends."""

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

from netns import GATEWAY_4, Net, Space, run

from tests.chaos.api import LocalApi
from tests.custody.capture import Captures
from tests.custody.packets import TCP, UDP
from tests.custody.script import CLUSTER, NAMESPACE, NODE, Host, Script
from tests.custody.script import Service as ServicePort
from tests.e2e.node import Broker, Probe
from tests.kafka.site import Service, Site, until

NODE_IPS: Final = ("192.0.2.1", "2001:db8:1::1")
WORLD: Final = ("198.51.100.7", "2001:db8:7::7")
VIPS: Final = ("10.96.0.10", "fd96::a")
LASTING: Final = {"client-1": ("client", 1), "client-2": ("client", 2), "server-1": ("server", 3),
                  "server-2": ("server", 4), "marker": ("marker", 9)}  # fmt: skip
"""The pods that live as long as the run: label and number. The first server is behind the Service."""
BACKEND: Final = "server-1"
_PORTS: Final = ((TCP, 80, 8001), (UDP, 90, 9001))
_PATIENCE_S: Final = 120


class Ground:
    """Makes everything when it is made, and ends everything in :meth:`close`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.script, self.captures = folder, Script(), Captures()
        self._closing = contextlib.ExitStack()
        self._closing.callback(self.captures.close)
        self._lock = threading.Lock()
        self.spaces: dict[str, Space] = {}
        """The namespaces of all hosts, by name."""
        self.probes: list[Probe] = []
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
        self._make_node()
        for name, (app, _) in LASTING.items():
            self.announce(name, app)
        starting.result()
        self.site = Site(
            self.broker.address, f"custody{secrets.token_hex(4)}", self.folder,
            settings={"WEIR_SOURCE": "kubernetes", "WEIR_CLUSTER": CLUSTER,
                      "KUBECONFIG": str(self.api.kubeconfig(self.folder))},
        )  # fmt: skip
        self._closing.callback(self.site.end)
        self.pins = Path("/sys/fs/bpf") / f"kubeweir-test-{self.net.prefix}"
        self._closing.callback(shutil.rmtree, self.pins, ignore_errors=True)
        self.start_probe()
        self.probe.wait_for("started", _PATIENCE_S)
        self.start_worker()
        for name, (_, number) in LASTING.items():
            self.connect(name, f"10.244.0.{number}", f"fd44::{number:x}")
            self.publish(name)
        self._make_service()
        self.wait_until_bound(len(LASTING))

    def _make_node(self) -> None:
        self.node = self.net.node(NODE_IPS)
        run(self.node, "sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0")
        addresses = [{"type": "InternalIP", "address": address} for address in NODE_IPS]
        spec = {"podCIDRs": ["10.244.0.0/16", "fd44::/64"]}
        self.api.set("Node", {"name": NODE, "uid": "uid-n1"}, spec=spec, status={"addresses": addresses})
        world = self.net.pod(self.node, *WORLD, name="world")
        self.script.hosts += [Host("node", (*NODE_IPS, GATEWAY_4)), Host("world", WORLD, place="world")]
        self.spaces |= {"node": self.node, "world": world}
        self.captures.add(world, "world")

    def _make_service(self) -> None:
        """Let a Service's addresses lead to a pod, as kube-proxy does."""
        backend, rules = self.host(BACKEND), []
        for address, to in zip(VIPS, backend.addresses, strict=True):
            family, target = ("ip6", f"[{to}]") if ":" in to else ("ip", to)
            for protocol, port, at in _PORTS:
                name = {TCP: "tcp", UDP: "udp"}[protocol]
                rules.append(f"{family} daddr {address} {name} dport {port} dnat {family} to {target}:{at}")
                self.script.services.append(ServicePort(protocol, address, port, to, at, "echo"))
        chain = f"chain pre {{ type nat hook prerouting priority dstnat; {'; '.join(rules)}; }}"
        nft = ["nsenter", f"--net={self.node.path}", "nft", "-f", "-"]
        subprocess.run(nft, input=f"table inet proxy {{ {chain}\n }}", text=True, check=True)
        ports = [{"name": f"p{port}", "protocol": {TCP: "TCP", UDP: "UDP"}[protocol], "port": port, "targetPort": at}
                 for protocol, port, at in _PORTS]  # fmt: skip
        spec = {"type": "ClusterIP", "clusterIP": VIPS[0], "clusterIPs": list(VIPS), "ports": ports}
        self.api.set("Service", {"name": "echo", "namespace": NAMESPACE, "uid": "uid-echo"}, spec=spec)

    # --- pods: the order of things is a kubelet's

    def host(self, name: str) -> Host:
        """Return a host by its name."""
        return next(host for host in self.script.hosts if host.name == name)

    def announce(self, name: str, app: str) -> None:
        """Create a pod in the API, scheduled to the node."""
        uid = f"uid-{name}"
        with self._lock:
            self.script.hosts.append(Host(name, (), app, uid, place=name))
        pod: dict[str, Any] = {
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid, "labels": {"app": app}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]},
            "begun": _text(),
        }
        self._pods[name] = pod
        self.api.set("Pod", pod["metadata"], spec=pod["spec"], status={"phase": "Pending"})

    def connect(self, name: str, *addresses: str) -> None:
        """Make the pod's interface."""
        host = self.host(name)
        host.addresses, host.begun = addresses, time.time_ns()
        with self._lock:
            self.spaces[name] = self.net.pod(self.node, *addresses, name=f"p{next(self._serial)}")
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
            space = self.spaces.pop(name)
            self.net.remove(space)
        self.host(name).gone = time.time_ns()
        self.captures.remove(name)

    def delete(self, name: str) -> None:
        """Delete the pod in the API."""
        self.api.delete("Pod", name)
        del self._pods[name]

    # --- services

    def start_broker(self) -> Future[None]:
        """Start Kafka; the future is done when it answers."""
        return self._starter.submit(self.broker.start)

    @property
    def probe(self) -> Probe:
        """The probe that was started last."""
        return self.probes[-1]

    def start_probe(self, **settings: str) -> None:
        """Start a probe. The one before must have ended."""
        env = self.site.env(
            WEIR_NODE=NODE, WEIR_NETNS=str(self.node.path), WEIR_PIN_DIR=str(self.pins),
            WEIR_RUN_DIR=str(self.folder / "run"), WEIR_STATE_DIR=str(self.folder / "state"),
            WEIR_UNKNOWN="closed", WEIR_POD_INTERFACES=f"!{self.spaces['world'].link}", WEIR_DENY_WINDOW="1",
            **settings,
        )  # fmt: skip
        self.probes.append(Probe(env, self.folder / f"probe-{len(self.probes)}.log"))

    def start_worker(self) -> None:
        """Start a worker. The one before must have ended."""
        self.worker: Service = self.site.start("enrich", "--alone")

    def wait_until_bound(self, pods: int) -> None:
        """Wait until the interfaces of so many pods are under policy."""

        def is_done() -> bool | None:
            if "policy:" in self.probe.get("/readyz")[1]:
                return None
            return self.probe.metric("kubeweir_probe_attached_pods") == pods or None

        until(is_done, f"{pods} pods under policy", _PATIENCE_S)

    def close(self) -> None:
        """End everything, also what has started only in part."""
        for probe in self.probes:
            if probe.process.poll() is None:
                probe.kill()
        self._closing.close()


def _text() -> str:
    return datetime.fromtimestamp(int(time.time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
