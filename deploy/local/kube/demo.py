"""`make demo CLUSTER=1`: a shop on a real cluster, its policies one after the other, and the verdicts that follow."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from kube.plan import HOST_4, ROOT, ClusterError

Kubectl = Callable[..., str]

_SHOP: Final = ROOT / "deploy/examples/shop/shop.yaml"
_TIMEOUT_S: Final = 60
_CONNECTIONS: Final = (("web", "api", 8080), ("api", "db", 5432), ("web", "db", 5432))
"""Client, server, port. No policy of the shop allows the last connection."""


def _policy(name: str, app: str | None, **spec: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": app}} if app else {}
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": selector, **spec},
    }  # fmt: skip


def _from(app: str) -> list[dict[str, Any]]:
    return [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]


STEPS: Final = (
    ("no policy: every connection is allowed", None, (True, True, True)),
    (
        "default-deny: no connection is let in",
        _policy("default-deny", None, policyTypes=["Ingress"]),
        (False, False, False),
    ),
    ("api-from-web", _policy("api-from-web", "api", ingress=_from("web")), (True, False, False)),
    ("db-from-api", _policy("db-from-api", "db", ingress=_from("api")), (True, True, False)),
)


class Shop:
    """The shop, and the connections between its pods."""

    def __init__(self, kubectl: Kubectl, say: Callable[[str], None]) -> None:
        self._kubectl, self._say = kubectl, say

    def open(self) -> None:
        """Deploy the shop and wait for its pods."""
        self._kubectl("apply", "-f", str(_SHOP))
        self._kubectl("-n", "shop", "wait", "--for=condition=Available", "deploy", "--all", "--timeout=120s")

    def step(self, title: str, policy: dict[str, Any] | None, expected: tuple[bool, ...]) -> None:
        """Apply a policy and wait until the connections go as expected. Raises ClusterError."""
        self._say(title)
        if policy is not None:
            self._kubectl("apply", "-f", "-", stdin=json.dumps(policy))
        deadline = time.monotonic() + _TIMEOUT_S
        while (seen := self._connections()) != expected:
            if time.monotonic() > deadline:
                raise ClusterError(f"{title}: {_described(seen)}, expected {_described(expected)}")
        self._say(f"{title}: {_described(seen)}")

    def repeat(self, expected: tuple[bool, ...], is_over: Callable[[], bool]) -> int:
        """Try the connections until ``is_over``; return the number of rounds. Raises ClusterError."""
        rounds = 0
        while not is_over():
            if (seen := self._connections()) != expected:
                raise ClusterError(f"meanwhile: {_described(seen)}, expected {_described(expected)}")
            rounds += 1
        return rounds

    def _connections(self) -> tuple[bool, ...]:
        pods = json.loads(self._kubectl("-n", "shop", "get", "pods", "-o", "json"))["items"]
        by_app = {pod["metadata"]["labels"]["app"]: pod for pod in pods if "podIP" in pod["status"]}
        return tuple(
            self._connects(by_app[source]["metadata"]["name"], entry["ip"], port)
            for source, target, port in _CONNECTIONS
            for entry in by_app[target]["status"]["podIPs"][:1]
        )

    def _connects(self, pod: str, address: str, port: int) -> bool:
        try:
            self._kubectl(
                "-n", "shop", "exec", pod, "--", "/agnhost", "connect", f"{address}:{port}", "--timeout=500ms"
            )
        except ClusterError as error:
            if "TIMEOUT" in str(error):
                return False
            raise
        return True


def play(shop: Shop, kubectl: Kubectl, kafka: str, say: Callable[[str], None]) -> None:
    """Play all steps, with the verdicts printed as they arrive. Raises ClusterError."""
    shop.open()
    say("the verdicts below, without those of the kubelet's own probes: weir observe --except-reason node")
    observe = subprocess.Popen(
        [ROOT / ".venv/bin/weir", "observe", "--follow", "--kafka", kafka, "--namespace=shop", "--except-reason=node"],
        stdin=subprocess.DEVNULL,
    )
    try:
        for step in STEPS:
            shop.step(*step)
        say("kubectl rollout restart ds/weir-probe: meanwhile enforcement continues and no connection breaks")
        kubectl("-n", "kubeweir", "rollout", "restart", "ds/weir-probe")
        rounds = shop.repeat(STEPS[-1][2], lambda: _is_rolled_out(kubectl))
        say(f"rolled out; meanwhile {rounds} rounds of {len(_CONNECTIONS)} connections, each as policy says")
        time.sleep(3)  # the last verdicts are on their way
    finally:
        observe.terminate()
        observe.wait()


def print_suggestions(kafka: str, say: Callable[[str], None]) -> None:
    """Print what to try on a cluster that was kept (KEEP=1)."""
    say('try: eval "$(deploy/local/cluster env)"; kubectl -n shop get pods -o wide; kubectl -n shop get netpol')
    say(f".venv/bin/weir observe --follow --except-reason node --kafka {kafka}")
    say(f"the API server is {HOST_4}; remove it all with: make cluster-down")


def _is_rolled_out(kubectl: Kubectl) -> bool:
    probe = json.loads(kubectl("-n", "kubeweir", "get", "ds/weir-probe", "-o", "json"))
    status, expected = probe["status"], probe["status"]["desiredNumberScheduled"]
    return bool(status.get("observedGeneration") == probe["metadata"]["generation"]) and status.get(
        "updatedNumberScheduled", 0
    ) == expected == status.get("numberAvailable", 0)


def _described(seen: tuple[bool, ...]) -> str:
    ways = zip(_CONNECTIONS, seen, strict=True)
    return ", ".join(f"{source} -> {target} {'allowed' if yes else 'denied'}" for (source, target, _), yes in ways)
