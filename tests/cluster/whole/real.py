"""A real cluster with kubeweir, and the actions of tests on it. They use kubectl, agnhost and kcat, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

from tests.cluster.whole.states import described

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "deploy/local/cluster"
HOST, HOST_6 = "10.99.0.1", "fd99::1"
"""This machine's addresses on the nodes' network. The API server listens there, and for pods they are outside."""
TIMEOUT_S = 600
"""Only a failing test waits so long: on a busy machine, each step takes ten times as long as on an idle one."""
ROLLOUT_S = 1200
_PATIENCE_S, _MOMENT_S = 60, 1
"""How long a connection is waited for: one that must be allowed, and one that must be denied."""
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.56"
NAMESPACE, SYSTEM = "shop", "kubeweir"
PORT = 8080


def run(*words: object, check: bool = True, stdin: str | None = None, timeout_s: float = 300) -> str:
    """Run a command and return its output."""
    done = subprocess.run(
        [str(word) for word in words], input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def until(
    what: str, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S, describe: Callable[[], object] = str
) -> None:
    """Wait until a condition is true; for the message, ``describe`` returns the state instead of it."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not after {timeout_s:.0f} s: {what} {describe()}"
        time.sleep(0.2)


class Real:
    """The cluster. ``folder`` is for the overlay, Kafka's data and the pods that kubectl has listed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.overlay = folder / "overlay"
        self.kafka = ""
        self.moved: set[str] = set()
        """UIDs of pods whose sandbox a test has killed: they have had other addresses before."""
        self._watch: subprocess.Popen[bytes] | None = None
        self._seen: IO[bytes] | None = None
        lines = run(PROGRAM, "env").splitlines()
        pairs = (line.removeprefix("export ").partition("=") for line in lines)
        values = {name: value.strip('"') for name, _, value in pairs}
        self.programs = Path(values["PATH"].partition(":")[0])
        """The folder of kubectl and of what else the cluster is made of."""
        self.environment = {**os.environ, "KUBECONFIG": values["KUBECONFIG"]}
        self._kubectl = self.programs / "kubectl"

    def write_overlay(self) -> None:
        """Write a user's overlay: settings and the optional component. Batches wait only 0.1 s, to make tests fast."""
        self.overlay.mkdir()
        settings = [f"WEIR_KAFKA={self.kafka}", "WEIR_PARTITIONS=4", "WEIR_BATCH_ALLOWED_WAIT=0.1"]
        (self.overlay / "kustomization.yaml").write_text(json.dumps({
            "resources": ["../kubernetes"],
            "components": ["../kubernetes/components/events"],
            "namespace": SYSTEM,
            "configMapGenerator": [{"name": "kubeweir-settings", "behavior": "merge", "literals": settings}],
        }))  # fmt: skip

    # --- kubectl

    def kubectl(self, *words: object, check: bool = True, stdin: str | None = None, timeout_s: float = 900) -> str:
        """Run kubectl and return its output."""
        done = self._run_kubectl(words, stdin, timeout_s)
        assert not check or done.returncode == 0, f"kubectl {words}: {done.stdout}{done.stderr}"
        return done.stdout

    def weir(self, *words: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command weir in a pod of weir-streams, as the README does. The exit code is that of weir."""
        pod = ("-n", SYSTEM, "exec", "-i", "deploy/weir-streams", "--", "weir")
        return self._run_kubectl((*pod, *words), stdin, TIMEOUT_S)

    def _run_kubectl(
        self, words: Iterable[object], stdin: str | None, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._kubectl, *(str(word) for word in words)], env=self.environment, input=stdin, capture_output=True,
            text=True, check=False, timeout=timeout_s,
        )  # fmt: skip

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects; those without a namespace go into the tests' namespace."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(items))

    def get(self, *words: object, namespace: str = NAMESPACE) -> Any:
        """Return an object, or a list of objects."""
        return json.loads(self.kubectl("-n", namespace, "get", *words, "-o", "json"))

    def pods(self, app: str, namespace: str = NAMESPACE, label: str = "app") -> list[dict[str, Any]]:
        """Return the pods of an app that are not being deleted."""
        items = self.get("pods", "-l", f"{label}={app}", namespace=namespace)["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def watch_pods(self) -> None:
        """From here on, record every version of every pod, so that deleted pods are known at the end."""
        self._seen = (self.folder / "pods.json").open("wb")
        words = [str(self._kubectl), "get", "pods", "--all-namespaces", "--watch", "-o", "json"]
        self._watch = subprocess.Popen(words, env=self.environment, stdout=self._seen)

    def seen_pods(self) -> list[dict[str, Any]]:
        """Return every recorded version of every pod, in the order of the changes."""
        text, decode, at, found = (self.folder / "pods.json").read_text(), json.JSONDecoder().raw_decode, 0, []
        while (at := text.find("{", at)) >= 0:
            try:
                pod, at = decode(text, at)
            except ValueError:
                break  # the last version is not completely written yet
            found.append(pod)
        return found

    def close(self) -> None:
        """End the watch."""
        if self._watch is not None and self._seen is not None:
            self._watch.terminate()
            self._watch.wait()
            self._seen.close()

    def wait_ready(self, *apps: str) -> None:
        """Wait until all pods of these apps are ready."""
        selector = f"app in ({','.join(apps)})"
        self.kubectl(
            "-n", NAMESPACE, "wait", "--for=condition=Ready", "pods", "-l", selector, f"--timeout={TIMEOUT_S}s"
        )

    def wait_rolled_out(self, workload: str, namespace: str = SYSTEM) -> None:
        """Wait until each pod of a workload is new and ready. A failure shows the states and the logs of all pods."""
        words = ("-n", namespace, "rollout", "status", workload, f"--timeout={ROLLOUT_S}s")
        try:
            self.kubectl(*words, timeout_s=ROLLOUT_S + 300)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise AssertionError(f"{error}\n{described(self, namespace)}") from None

    # --- traffic

    def connects(self, client: dict[str, Any], address: str, port: int = PORT) -> bool:
        """Return whether a TCP connection from a pod is established, by the first SYN or by a later one.

        For what must be allowed: only a failure takes all the patience. Ask :meth:`gets_no_answer` about what must not.
        """
        return self._connects(client, address, _PATIENCE_S, port=port)

    def gets_no_answer(self, client: dict[str, Any], address: str, port: int = PORT, protocol: str = "tcp") -> bool:
        """Return whether a moment passes and no connection from a pod is established, as policy denies it."""
        return not self._connects(client, address, _MOMENT_S, port=port, protocol=protocol)

    def _connects(
        self,
        client: dict[str, Any],
        address: str,
        seconds: int,
        *,
        port: int = PORT,
        protocol: str = "tcp",
        may_refuse: bool = False,
    ) -> bool:
        """Return whether a connection is established in so many seconds. Any failure but a timeout fails the test.

        With ``may_refuse``, a refusal counts as not established: kube-proxy refuses while it does not know a Service's
        backends.
        """
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        done = subprocess.run(
            [
                self._kubectl, "-n", client["metadata"]["namespace"], "exec", client["metadata"]["name"], "-c", "main",
                "--", "/agnhost", "connect", target, f"--protocol={protocol}", f"--timeout={seconds}s",
            ],
            env=self.environment, capture_output=True, text=True, check=False, timeout=240 + seconds,
        )  # fmt: skip
        assert done.returncode == 0 or may_refuse or "TIMEOUT" in done.stdout + done.stderr, done.stdout + done.stderr
        return done.returncode == 0

    def opens(self, client: dict[str, Any], address: str, **more: Any) -> None:
        """Wait until a connection is allowed: a policy is in force only after a moment."""
        name = client["metadata"]["name"]
        until(
            f"{name} to {address} allowed", lambda: self._connects(client, address, _MOMENT_S, may_refuse=True, **more)
        )

    def closes(self, client: dict[str, Any], address: str, **more: Any) -> None:
        """Wait until a connection is denied."""
        name = client["metadata"]["name"]
        until(f"{name} to {address} denied", lambda: self.gets_no_answer(client, address, **more))

    def on(self, node: str, *words: object, stdin: str | None = None) -> str:
        """Run a command on a node and return its output."""
        return run(PROGRAM, "on", node, "--", *words, stdin=stdin)

    def nodes(self) -> list[str]:
        """Return the nodes' names."""
        return [node["metadata"]["name"] for node in self.get("nodes")["items"]]

    # --- records in Kafka

    def records(self, topic: str = "flows") -> list[dict[str, Any]]:
        """Return all records of a topic."""
        done = run("kcat", "-C", "-q", "-e", "-b", self.kafka, "-t", f"kubeweir.{topic}", "-o", "beginning")
        return [orjson.loads(line) for line in done.splitlines()]

    def record(self, **connection: Any) -> dict[str, Any]:
        """Wait for a record with these fields, and return the newest one."""
        return self.records_with(1, **connection)[-1]

    def records_with(self, least: int = 1, **connection: Any) -> list[dict[str, Any]]:
        """Wait for at least so many records with these fields, and return them."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            found[:] = [r for r in self.records() if connection.items() <= {**r["connection"], **r}.items()]
            return len(found) >= least

        until(f"{least} records with {connection}", enough)
        return found


def addresses(pod: dict[str, Any]) -> list[str]:
    """Return a pod's addresses, IPv4 first."""
    return [entry["ip"] for entry in pod["status"]["podIPs"]]


def deployment(app: str, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    """Make a Deployment of agnhost servers for TCP and UDP, spread over the nodes."""
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
    """Make a Service of both families."""
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "selector": {"app": app or name}, "ports": [{"name": "main", "port": port, "targetPort": target}],
            "ipFamilyPolicy": "RequireDualStack", **spec,
        },
    }  # fmt: skip


def policy(name: str, app: str, **spec: Any) -> dict[str, Any]:
    """Make a NetworkPolicy for an app's pods."""
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, **spec},
    }  # fmt: skip


def from_app(app: str, port: int | str | None = PORT, protocol: str = "TCP") -> dict[str, Any]:
    """Make an ingress rule that allows an app's pods to connect to a port."""
    rule: dict[str, Any] = {"from": [{"podSelector": {"matchLabels": {"app": app}}}]}
    return rule | ({"ports": [{"port": port, "protocol": protocol}]} if port else {})


def numbers(records: Iterable[dict[str, Any]]) -> dict[str, set[int]]:
    """Return the numbers of the records' verdicts, by ring."""
    rings: dict[str, set[int]] = {}
    for record in records:
        ring, _, number = record["id"].rpartition("-")
        rings.setdefault(ring, set()).add(int(number))
    return rings


def missing_numbers(now: Mapping[str, set[int]], before: Mapping[str, set[int]]) -> list[str]:
    """Return the missing numbers up to the highest in ``before``: a lost verdict leaves a gap in its ring's numbers.

    Higher numbers are not checked, because records that are still in the pipeline are missing among them.
    """
    return [
        f"{ring}-{number}"
        for ring, seen in before.items()
        for number in range(min(now[ring]), max(seen) + 1)
        if number not in now[ring]
    ]
