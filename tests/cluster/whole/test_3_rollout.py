"""A test of a rolling update of the probe while pods keep connecting."""

from __future__ import annotations

import json

import pytest

from tests.cluster.whole.real import (
    NAMESPACE,
    ROOT,
    SYSTEM,
    Real,
    addresses,
    deployment,
    from_app,
    missing_numbers,
    numbers,
    policy,
    run,
    until,
)
from tests.cluster.whole.story import Pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("guarded")]

TRAFFIC = """
import socket, sys, time
allowed, denied = sys.argv[1].split(","), sys.argv[2].split(",")
counts = {"allowed": 0, "refused": 0, "denied": 0, "through": 0}
def connects(ip, wait):
    try:
        socket.create_connection((ip, 8080), wait).close()
        return True
    except OSError:
        return False
while True:
    for ip in allowed:
        counts["allowed" if connects(ip, 5) else "refused"] += 1
    for ip in denied:
        counts["through" if connects(ip, 0.05) else "denied"] += 1
    print(counts, flush=True)
"""


def test_a_rolling_update_under_traffic_keeps_every_verdict(real: Real, web: list[Pod], stranger: Pod) -> None:
    name = run(ROOT / "deploy/image/build", "--name").strip()
    allowed = ",".join(a for pod in web for a in addresses(pod))
    real.apply(policy("closed", "stranger", policyTypes=["Ingress"]))
    real.closes(real.pods("client")[0], addresses(stranger)[0])
    denied = ",".join(addresses(stranger))
    traffic = deployment("client-loop", 2)
    container = traffic["spec"]["template"]["spec"]["containers"][0]
    for key in ("readinessProbe", "livenessProbe", "args", "ports"):
        del container[key]
    container |= {"image": name, "command": ["python3", "-c", TRAFFIC, allowed, denied]}
    real.apply(policy("web-from-loop", "web", ingress=[from_app("client-loop")]), traffic)
    real.wait_ready("client-loop")

    def counts() -> list[dict[str, int]]:
        lines = [
            real.kubectl("-n", NAMESPACE, "logs", p["metadata"]["name"], "--tail=1") for p in real.pods("client-loop")
        ]
        return [json.loads((line or "{}").replace("'", '"')) for line in lines]  # fmt: skip

    until("traffic in both loops", lambda: all(c.get("allowed", 0) > 20 for c in counts()))
    before = counts()
    real.kubectl("-n", SYSTEM, "rollout", "restart", "ds/weir-probe")
    real.kubectl("-n", SYSTEM, "rollout", "status", "ds/weir-probe", "--timeout=240s")
    after = counts()
    for old, new in zip(before, after, strict=True):
        assert new["allowed"] > old["allowed"] + 20
        assert new["through"] == old["through"], (old, new)
        assert new["refused"] == old["refused"], (old, new)
    real.kubectl("-n", NAMESPACE, "delete", "deploy/client-loop")
    so_far = numbers(real.records())
    missing: list[str] = []

    def complete() -> bool:
        missing[:] = missing_numbers(numbers(real.records()), so_far)
        return not missing

    until("every record up to here", complete, describe=lambda: missing)
    assert not [r for r in real.records("status") if r.get("lost")]
