"""A real cluster with kubeweir on it, and what a test does there: by kubectl, agnhost and kcat, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "deploy/local/cluster"
HOST, HOST_6 = "10.99.0.1", "fd99::1"
"""This machine, on the nodes' network: the API server is there, and to pods it is the world outside."""
PATIENCE_S = 120
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.56"
NAMESPACE, SYSTEM = "shop", "kubeweir"
PORT = 8080


def run(*words: object, check: bool = True, stdin: str | None = None, patience_s: float = 300) -> str:
    """A command's output."""
    done = subprocess.run(
        [str(word) for word in words], input=stdin, capture_output=True, text=True, check=False, timeout=patience_s
    )
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def until(
    what: str, true: Callable[[], bool], patience_s: float = PATIENCE_S, describe: Callable[[], object] = str
) -> None:
    """Wait for a condition; ``describe`` says what there was instead."""
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for: {what} {describe()}"
        time.sleep(0.2)


class Real:
    """The cluster. ``folder`` is for the overlay and Kafka's data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.overlay = folder / "overlay"
        self.kafka = ""
        self.moved: set[str] = set()
        """UIDs of pods whose sandbox a test had made anew: they have had other addresses."""
        self._watch: subprocess.Popen[bytes] | None = None
        self._seen: IO[bytes] | None = None
        lines = run(PROGRAM, "env").splitlines()
        pairs = (line.removeprefix("export ").partition("=") for line in lines)
        values = {name: value.strip('"') for name, _, value in pairs}
        self._env = {**os.environ, "KUBECONFIG": values["KUBECONFIG"]}
        self._kubectl = Path(values["PATH"].partition(":")[0]) / "kubectl"

    def write_overlay(self) -> None:
        """A user's own: settings, and the optional part. Verdicts are to come soon, also where there are few."""
        self.overlay.mkdir()
        settings = [f"WEIR_KAFKA={self.kafka}", "WEIR_PARTITIONS=4", "WEIR_BATCH_ALLOWED_WAIT=0.1"]
        (self.overlay / "kustomization.yaml").write_text(json.dumps({
            "resources": ["../kubernetes"],
            "components": ["../kubernetes/components/events"],
            "namespace": SYSTEM,
            "configMapGenerator": [{"name": "kubeweir-settings", "behavior": "merge", "literals": settings}],
        }))  # fmt: skip

    # --- kubectl

    def kubectl(self, *words: object, check: bool = True, stdin: str | None = None) -> str:
        """Its output."""
        done = subprocess.run(
            [self._kubectl, *(str(word) for word in words)], env=self._env, input=stdin, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"kubectl {words}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Objects, into the namespace of the test where they name none."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(items))

    def get(self, *words: object, namespace: str = NAMESPACE) -> Any:
        """An object, or a list."""
        return json.loads(self.kubectl("-n", namespace, "get", *words, "-o", "json"))

    def pods(self, app: str, namespace: str = NAMESPACE, label: str = "app") -> list[dict[str, Any]]:
        """The pods of an app that are not going."""
        items = self.get("pods", "-l", f"{label}={app}", namespace=namespace)["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def watch_pods(self) -> None:
        """From here on, keep what kubectl says of every pod, for those that are gone at the end."""
        self._seen = (self.folder / "pods.json").open("wb")
        words = [str(self._kubectl), "get", "pods", "--all-namespaces", "--watch", "-o", "json"]
        self._watch = subprocess.Popen(words, env=self._env, stdout=self._seen)

    def seen_pods(self) -> list[dict[str, Any]]:
        """What kubectl has said, in its order: a pod as often as it changed."""
        text, decode, at, found = (self.folder / "pods.json").read_text(), json.JSONDecoder().raw_decode, 0, []
        while (at := text.find("{", at)) >= 0:
            try:
                pod, at = decode(text, at)
            except ValueError:
                break  # the last one, half written
            found.append(pod)
        return found

    def close(self) -> None:
        """End the watch."""
        if self._watch is not None and self._seen is not None:
            self._watch.terminate()
            self._watch.wait()
            self._seen.close()

    def wait_ready(self, *apps: str) -> None:
        """Until all pods of these apps are ready."""
        selector = f"app in ({','.join(apps)})"
        self.kubectl(
            "-n", NAMESPACE, "wait", "--for=condition=Ready", "pods", "-l", selector, f"--timeout={PATIENCE_S}s"
        )

    # --- traffic

    def connects(
        self, client: dict[str, Any], address: str, port: int = PORT, protocol: str = "tcp", *, may_refuse: bool = False
    ) -> bool:
        """Whether a connection from a pod gets through: agnhost says why not, and only silence is a denial.
        ``may_refuse``: kube-proxy does, while it does not know a Service's backends."""
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        done = subprocess.run(
            [
                self._kubectl, "-n", NAMESPACE, "exec", client["metadata"]["name"], "-c", "main", "--", "/agnhost",
                "connect", target, f"--protocol={protocol}", "--timeout=1s",
            ],
            env=self._env, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0 or may_refuse or "TIMEOUT" in done.stdout + done.stderr, done.stdout + done.stderr
        return done.returncode == 0

    def opens(self, client: dict[str, Any], address: str, **more: Any) -> None:
        """Until a connection is allowed: a policy takes a moment to arrive."""
        name = client["metadata"]["name"]
        until(f"{name} to {address} allowed", lambda: self.connects(client, address, may_refuse=True, **more))

    def closes(self, client: dict[str, Any], address: str, **more: Any) -> None:
        """Until it is denied."""
        name = client["metadata"]["name"]
        until(f"{name} to {address} denied", lambda: not self.connects(client, address, **more))

    def on(self, node: str, *words: object, stdin: str | None = None) -> str:
        """A command on a node."""
        return run(PROGRAM, "on", node, "--", *words, stdin=stdin)

    def nodes(self) -> list[str]:
        """The nodes' names."""
        return [node["metadata"]["name"] for node in self.get("nodes")["items"]]

    # --- what Kafka has

    def records(self, topic: str = "flows") -> list[dict[str, Any]]:
        """All records of a topic."""
        done = run("kcat", "-C", "-q", "-e", "-b", self.kafka, "-t", f"kubeweir.{topic}", "-o", "beginning")
        return [orjson.loads(line) for line in done.splitlines()]

    def record(self, **connection: Any) -> dict[str, Any]:
        """The newest record of a connection with these fields, once it is there."""
        return self.records_with(1, **connection)[-1]

    def records_with(self, least: int = 1, **connection: Any) -> list[dict[str, Any]]:
        """The records of connections with these fields, once there are so many."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [r for r in self.records() if connection.items() <= {**r["connection"], **r}.items()]
            return len(found) >= least

        until(f"{least} records with {connection}", look, 60)
        return found


def addresses(pod: dict[str, Any]) -> list[str]:
    """A pod's addresses, IPv4 first."""
    return [entry["ip"] for entry in pod["status"]["podIPs"]]


def deployment(app: str, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    """A Deployment of agnhost servers, one on each node; they answer TCP and UDP."""
    container = {
        "name": "main", "image": AGNHOST, "args": ["netexec", f"--http-port={PORT}", f"--udp-port={PORT}"],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 2, "failureThreshold": 3},
    }  # fmt: skip
    labels = {"app": app}
    spread = {
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }  # fmt: skip
    pod = {"terminationGracePeriodSeconds": 0, "containers": [container], "topologySpreadConstraints": [spread], **spec}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }  # fmt: skip


def service(name: str, app: str = "", port: int = 80, target: int | str = "http", **spec: Any) -> dict[str, Any]:
    """A Service of both families."""
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "selector": {"app": app or name}, "ports": [{"name": "main", "port": port, "targetPort": target}],
            "ipFamilyPolicy": "RequireDualStack", **spec,
        },
    }  # fmt: skip


def policy(name: str, app: str, **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy for an app's pods."""
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, **spec},
    }  # fmt: skip


def from_app(app: str, port: int | str | None = PORT, protocol: str = "TCP") -> dict[str, Any]:
    """A rule: from an app's pods, to a port."""
    rule: dict[str, Any] = {"from": [{"podSelector": {"matchLabels": {"app": app}}}]}
    return rule | ({"ports": [{"port": port, "protocol": protocol}]} if port else {})


def numbers(records: Iterable[dict[str, Any]]) -> dict[str, set[int]]:
    """The rows' numbers, by ring."""
    rings: dict[str, set[int]] = {}
    for record in records:
        ring, _, number = record["id"].rpartition("-")
        rings.setdefault(ring, set()).add(int(number))
    return rings


def missing_numbers(now: Mapping[str, set[int]], before: Mapping[str, set[int]]) -> list[str]:
    """Numbers that are left out up to the highest that was there ``before``: what a loss looks like. Beyond it, while
    more come, some are always on their way."""
    return [
        f"{ring}-{number}"
        for ring, seen in before.items()
        for number in range(min(now[ring]), max(seen) + 1)
        if number not in now[ring]
    ]
