"""What a failure shows of the pods of a namespace: their states, why they are not ready, and the ends of their logs."""

from __future__ import annotations

from typing import Any, Final, Protocol

_LINES: Final = 40
_PORTS: Final = {"weir-probe": 9701, "weir-streams": 9708, "weir-web": 9709}
"""The ports of the pages that the kubelet asks whether a container is ready."""
_ASK: Final = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:{port}/readyz", timeout=60).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


class Cluster(Protocol):
    """The part of :class:`tests.cluster.whole.real.Real` that is needed."""

    def kubectl(self, *words: object, check: bool = True) -> str: ...

    def get(self, *words: object, namespace: str) -> Any: ...


def described(cluster: Cluster, namespace: str) -> str:
    """Return what is known about the pods of a namespace."""
    events = cluster.kubectl("-n", namespace, "get", "events", "--sort-by=.lastTimestamp", check=False)
    parts = ["\n".join(events.splitlines()[-_LINES:])]
    for pod in cluster.get("pods", namespace=namespace)["items"]:
        name = pod["metadata"]["name"]
        for container in pod["status"].get("containerStatuses", ()):
            states = {key: container.get(key) for key in ("ready", "restartCount", "state", "lastState")}
            parts.append(f"--- {name}, {container['name']}: {states}")
            if port := _PORTS.get(container["name"]):
                ask = ("--", "/opt/kubeweir/bin/python3", "-c", _ASK.format(port=port))
                parts.append(cluster.kubectl("-n", namespace, "exec", name, "-c", container["name"], *ask, check=False))
            words = ("-n", namespace, "logs", name, "-c", container["name"], f"--tail={_LINES}")
            parts.append(cluster.kubectl(*words, check=False))
            if container["restartCount"]:
                parts.append(cluster.kubectl(*words, "--previous", check=False))
    return "\n".join(parts)
