"""NetworkLogging in a folder of manifests, switched while packets flow: each verdict is on Kafka or counted as cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enrich.wire.batch import Verdict
from enrich.wire.cuts import Cut
from streams.worker.losses import Losses
from tests.e2e.node import Node, Probe, Rows
from tests.e2e.test_probe import FLOWS, Traffic
from tests.enrich.parse.test_network_logging import network_logging
from tests.kafka.site import until

pytestmark = pytest.mark.e2e

OFF: dict[str, bool] = {}
LOG, DELEGATE = {"log": True}, {"log": True, "delegate": True}


def put(node: Node, allow: dict[str, bool], deny: dict[str, bool]) -> None:
    """Save the object as a person does."""
    document = network_logging({"cluster": {"allow": allow, "deny": deny}})
    (node.folder / "manifests/logging.yaml").write_text(json.dumps(document))


def wait_for(probe: Probe, **modes: str) -> None:
    def is_in_force() -> bool | None:
        text = probe.get("/metrics")[1]
        lines = (f'kubeweir_probe_logging{{logged="{mode}",verdicts="{name}"}} 1.0' for name, mode in modes.items())
        return all(line in text for line in lines) or None

    until(is_in_force, f"logging to be {modes}")


def cut(probe: Probe) -> tuple[int, int]:
    return (int(probe.metric('kubeweir_probe_cut_verdicts_total{by="logging",verdicts="allowed"}')),
            int(probe.metric('kubeweir_probe_cut_verdicts_total{by="logging",verdicts="denied"}')))  # fmt: skip


@pytest.mark.timeout(900)
def test_a_switch_needs_no_restart_and_what_is_not_logged_is_counted(node: Node) -> None:
    probe = node.begin(WEIR_LOGGING="none")
    wait_for(probe, allowed="none", default_allowed="none", denied="none")
    traffic = Traffic(node)
    try:
        cases: list[tuple[Any, Any, dict[str, str]]] = [
            (LOG, OFF, {"allowed": "all", "default_allowed": "all", "denied": "none"}),
            (OFF, LOG, {"allowed": "none", "default_allowed": "none", "denied": "all"}),
            (LOG, LOG, {"allowed": "all", "default_allowed": "all", "denied": "all"}),
            (DELEGATE, DELEGATE, {"allowed": "delegated", "default_allowed": "none", "denied": "delegated"}),
        ]
        for allow, deny, modes in cases:
            put(node, allow, deny)
            wait_for(probe, **modes)
            traffic.wait_for_more(100)
        put(node, OFF, DELEGATE | {"log": False})
        until(lambda: "spec.cluster.deny.delegate" in probe.get("/readyz")[1] or None, "the mistake to be named")
        wait_for(probe, **cases[-1][2])
        probe.kill()
        put(node, OFF, LOG)
        probe = node.start(WEIR_LOGGING="none")
        probe.wait_until_enforced()
        wait_for(probe, **cases[1][2])
        traffic.wait_for_more(100)
        (node.folder / "manifests/logging.yaml").unlink()
        wait_for(probe, allowed="none", denied="none")
        traffic.wait_for_more(100)
    finally:
        traffic.stop()
    allowed, denied = cut(probe)
    assert probe.stop() == 0, probe.log.read_text()
    rows = Rows(batches := node.batches())
    written = sum(len(rows.of(pod, Verdict.ALLOW)) for pod in ("client", "server"))
    # Each allowed flow at both ends, and the client's end of each denied one.
    assert written + allowed == 2 * traffic.allowed + FLOWS
    assert int(rows.of("server", Verdict.DENY)["count"].sum()) + denied == traffic.denied
    assert min(written, allowed, denied) > 0
    # The stream says so once, although a probe was killed. What was cut since the last batch, the next start reports.
    losses = Losses()
    found = [cut for one in batches for cut in losses.detect(0, one.header) if isinstance(cut, Cut)]
    for decided, counted in (("allowed", allowed), ("denied", denied)):
        of_class = [cut for cut in found if cut.kind == ("logging", decided)]
        assert 0 < sum(cut.verdicts for cut in of_class) == of_class[-1].total <= counted
