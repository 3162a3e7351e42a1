"""Tests of pods whose first process sends at once, with the CNI plugin that the manifests install, and without it.

`make first-packets` starts many more pods than `make test`, in rounds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.whole.real import AGNHOST, NAMESPACE, SYSTEM, Real, addresses, policy, until
from tests.cluster.whole.story import Pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("guarded")]

PODS = 20
ROUNDS = int(os.environ.get("KUBEWEIR_ROUNDS", "1"))
CTR = ("/var/lib/weir/debian/usr/bin/ctr", "-n", "k8s.io")


def eager(app: str, number: int, target: str, node: str = "") -> Pod:
    """Make a pod whose only process connects once, and fails if the first packet gets no answer.

    TCP repeats a lost SYN after a second, which is longer than the process waits.
    """
    host = f"[{target}]" if ":" in target else target
    spec: dict[str, Any] = {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": AGNHOST, "args": ["connect", f"{host}:8080", "--timeout=900ms"]}],
    }  # fmt: skip
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{app}-{number}", "labels": {"app": app}},
        "spec": spec,
    }  # fmt: skip


def phases(real: Real, app: str) -> list[str]:
    return [pod["status"]["phase"] for pod in real.pods(app)]


def ended(real: Real, app: str, count: int) -> list[str]:
    """Wait until all pods of an app have ended; return their phases."""

    def all_ended() -> bool:
        found = phases(real, app)
        return len(found) == count and set(found) <= {"Succeeded", "Failed"}

    until(f"{count} pods of {app} ended", all_ended, 300, lambda: phases(real, app))
    return phases(real, app)


def outputs(real: Real, app: str) -> list[str]:
    return [real.kubectl("-n", NAMESPACE, "logs", pod["metadata"]["name"]).strip() for pod in real.pods(app)]


def say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Print a line although pytest captures output."""
    with capsys.disabled():
        print(f"\nfirst packets {line}")


@pytest.fixture(scope="module")
def policies(real: Real) -> Iterator[None]:
    """Deny everything to one app; allow another to reach the stranger and nothing else."""
    real.apply(
        policy("eager-denied", "eager-denied", policyTypes=["Ingress", "Egress"]),
        policy("eager-allowed", "eager-allowed", policyTypes=["Ingress", "Egress"],
               egress=[{"to": [{"podSelector": {"matchLabels": {"app": "stranger"}}}]}]),
    )  # fmt: skip
    yield
    real.kubectl("-n", NAMESPACE, "delete", "networkpolicy", "eager-denied", "eager-allowed")


def start_and_judge(real: Real, stranger: Pod, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Start pods of both apps: none of the one reaches the stranger, and all of the other do with their first SYN."""
    targets = addresses(stranger)
    real.apply(*(eager(app, number, targets[number % 2])
                 for number in range(PODS) for app in ("eager-denied", "eager-allowed")))  # fmt: skip
    meanwhile()
    assert set(ended(real, "eager-denied", PODS)) == {"Failed"}, outputs(real, "eager-denied")
    assert set(outputs(real, "eager-denied")) == {"TIMEOUT"}
    assert set(ended(real, "eager-allowed", PODS)) == {"Succeeded"}, outputs(real, "eager-allowed")
    real.kubectl("-n", NAMESPACE, "delete", "pods", "-l", "app in (eager-denied,eager-allowed)")


@pytest.mark.usefixtures("policies")
def test_the_first_packet_of_a_pods_first_process_is_judged(
    real: Real, stranger: Pod, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(ROUNDS):
        start_and_judge(real, stranger)
    say(capsys, f"with the plugin: {PODS * ROUNDS} pods denied everything, 0 first packets through; "
                f"{PODS * ROUNDS} pods allowed, 0 first packets refused")  # fmt: skip
    record = real.record(dest_ip=addresses(stranger)[0], direction="egress", disposition="deny")
    assert record["src"]["pod_name"].startswith("eager-denied-")


@pytest.mark.usefixtures("policies")
def test_a_probe_that_is_killed_while_pods_start_lets_none_through(real: Real, stranger: Pod) -> None:
    def kill() -> None:
        until("some pods with addresses", lambda: sum("podIP" in p["status"] for p in real.pods("eager-denied")) >= 3)
        for node in real.nodes():
            chosen = 'labels."io.kubernetes.container.name"==weir-probe'
            for container in real.on(node, *CTR, "containers", "ls", "-q", chosen).split():
                real.on(node, "sh", "-c", f"{' '.join(CTR)} tasks kill -s SIGKILL {container} || true")

    start_and_judge(real, stranger, kill)
    real.wait_rolled_out("ds/weir-probe")


@pytest.mark.usefixtures("policies")
def test_without_a_probe_on_the_node_pods_wait_and_start_when_it_is_there(real: Real, stranger: Pod) -> None:
    node = real.nodes()[0]

    def patch(selector: dict[str, str] | None) -> None:
        change = {"spec": {"template": {"spec": {"nodeSelector": selector}}}}
        real.kubectl("-n", SYSTEM, "patch", "ds/weir-probe", "--type=merge", "-p", json.dumps(change))

    def probes() -> list[str]:
        found = real.pods("weir-probe", SYSTEM, "app.kubernetes.io/name")
        return [pod["spec"]["nodeName"] for pod in found]

    real.kubectl("label", "node", *(name for name in real.nodes() if name != node), "probe=here")
    patch({"probe": "here"})
    until("no probe on the node", lambda: node not in probes())
    real.apply(eager("eager-denied", 0, addresses(stranger)[0], node))

    def waits() -> bool:
        events = real.get("events", "--field-selector=involvedObject.name=eager-denied-0")["items"]
        return any("weir-probe does not answer" in event["message"] for event in events)

    until("the pod waits for the probe", waits)
    assert phases(real, "eager-denied") == ["Pending"]
    patch(None)
    assert ended(real, "eager-denied", 1) == ["Failed"]
    assert outputs(real, "eager-denied") == ["TIMEOUT"]
    real.wait_rolled_out("ds/weir-probe")
    real.kubectl("label", "node", "--all", "probe-")
    real.kubectl("-n", NAMESPACE, "delete", "pods", "-l", "app=eager-denied")


@pytest.fixture
def strict(real: Real) -> Iterator[None]:
    """Take the plugin out of the nodes, and close interfaces until their pods are known."""

    def set_env(*variables: str) -> None:
        real.kubectl("-n", SYSTEM, "set", "env", "ds/weir-probe", *variables)
        real.wait_rolled_out("ds/weir-probe")

    def with_plugin() -> list[str]:
        return [node for node in real.nodes() if "weir-cni" in real.on(node, "cat", "/etc/cni/net.d/10-weir.conflist")]

    set_env("WEIR_CNI=off", "WEIR_UNKNOWN=closed")
    assert with_plugin() == []
    yield
    set_env("WEIR_CNI-", "WEIR_UNKNOWN-")
    until("the plugin on every node", lambda: with_plugin() == real.nodes())


@pytest.mark.usefixtures("policies", "strict")
def test_without_the_plugin_a_strict_node_lets_no_first_packet_through(
    real: Real, stranger: Pod, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pod that policy allows may lose its first packets then: nothing waits until its policy is in force."""
    targets, through = addresses(stranger), 0
    for _ in range(ROUNDS):
        real.apply(*(eager("eager-denied", number, targets[number % 2]) for number in range(2 * PODS)))
        through += ended(real, "eager-denied", 2 * PODS).count("Succeeded")
        assert set(outputs(real, "eager-denied")) == {"TIMEOUT"}
        real.kubectl("-n", NAMESPACE, "delete", "pods", "-l", "app=eager-denied")
    say(
        capsys,
        f"without the plugin, strict: {2 * PODS * ROUNDS} pods denied everything, {through} first packets through",
    )
    assert through == 0
