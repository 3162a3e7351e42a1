"""`weir verify` on what the roles enricher and journal really wrote, while a policy changed; and on a forged record."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from enrich.wire.batch import Reason, Verdict
from enrich.wire.in_force import PoliciesInForce, PolicyVersion, version_of
from enrich.wire.tally import KernelTally, Tally
from streams.cli.main import command
from tests.kafka.batches import PODS, make_batch, make_header, mapped
from tests.kafka.site import Site, until
from tests.kafka.test_journal import Folder

pytestmark = pytest.mark.kafka
S = 1_000_000_000
_WEB = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: web-allow-api, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  policyTypes: [Egress]
  egress: [{{to: [{{podSelector: {{matchLabels: {{app: api}}}}}}], ports: [{{port: {port}}}]}}]
"""
DELAY_S = 2


class Past(Folder):
    """A policy that lets web-0 reach api-0 on one port, and verdicts about it."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._sent = 0

    def allow(self, port: int) -> int:
        """Let web-0 reach this port of api-0 only; return since when the journal has it."""
        self._put("web", _WEB.format(port=port))

        def look() -> int | None:
            found = [one for one in self.entries() if one.name == "web-allow-api"]
            return found[-1].seen_ns if found and f'"port":{port}'.encode() in bytes(found[-1].object) else None

        return until(look, f"a policy with port {port}")

    def send(self, at_ns: int, port: int, *, denied: bool, peer: str = "api-0", **fields: Any) -> None:
        """Send what the kernel says of a connection of web-0."""
        until(lambda: time.time_ns() > at_ns, "the time of the packet")
        rows = {
            "age_s": (time.time_ns() - at_ns) / S, "destination": mapped(PODS[peer]), "destination_port": port,
            "verdict": Verdict.DENY if denied else Verdict.ALLOW,
            "reason": Reason.DEFAULT_DENY if denied else Reason.POLICY,
        }  # fmt: skip
        self.site.send(make_batch(self._sent, 1, **{**rows, **fields}))
        self._sent += 1

    def state(self, change: int, switched_ns: int, port: int | None) -> None:
        """Send what the node says: that the version with this port, or no policy, applies since a switch."""
        entries = [one for one in self.entries() if one.name == "web-allow-api" and port is not None]
        policies = [
            PolicyVersion(one.kind, one.namespace, one.name, one.uid, version_of(one.object))
            for one in entries if f'"port":{port}'.encode() in bytes(one.object)
        ]  # fmt: skip
        header = make_header(self._sent, 0)
        at = switched_ns - header.clock
        made = PoliciesInForce(change=change, epoch=change, switched=(at, at + 1000), policies=tuple(policies[:1]))
        kernel = KernelTally(decided=(0, 0), written=0, waiting=0, ring=(0, 0), verdicts=0)
        tally = Tally(at=time.monotonic_ns(), every=10.0, kernel=kernel, in_force=(made,))
        self.site.send(make_batch(self._sent, 0, {"tally": tally, "clock": header.clock}))

    def flows(self) -> list[dict[str, Any]]:
        """Wait for all records, and return them."""
        self.site.flush()
        return self.site.read_flows(self._sent)


def verify(site: Site, *arguments: str) -> Result:
    env = {"WEIR_KAFKA": site.connection["bootstrap.servers"], "WEIR_TOPIC_PREFIX": site.prefix}
    return CliRunner().invoke(command, ["verify", "--delay", f"{DELAY_S}s", *arguments], env=env)


def outcomes(done: Result) -> dict[str, int]:
    found = json.loads(done.stdout)["outcomes"]
    return {key: count for key, count in found.items() if count}


def test_what_the_roles_wrote_agrees_and_what_is_forged_does_not(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    past = Past(site)
    journal = past.start()
    first = past.allow(80)
    site.start_enrich(WEIR_CLUSTER="c1")
    # The first version, and beside it what no version allows, and a packet that no policy decides about.
    later = first + 2 * DELAY_S * S
    for port, denied in ((80, False), (443, True), (80, False)):
        past.send(later, port, denied=denied)
    past.send(later, 80, denied=True, peer="db-0")
    past.send(later, 80, denied=True, reason=Reason.SPOOFED)
    until(lambda: time.time_ns() > later + 2 * DELAY_S * S, "the second version")
    second = past.allow(443)
    # The node has the second version a little later than the journal.
    past.send(second + S // 4, 80, denied=False)
    past.state(1, first, 80)
    past.state(2, second + S // 2, 443)
    past.send(second + S + 1000, 443, denied=False)
    past.send(second + 2 * DELAY_S * S, 80, denied=True)
    records = past.flows()
    until(lambda: time.time_ns() > second + 4 * DELAY_S * S, "the end of what is known")
    assert journal.stop() == 0, "its last entry says that the journal is complete"
    done = verify(site, "-o", "json")
    assert done.exit_code == 0, done.output
    assert outcomes(done) == {"agrees": 6, "agrees_late": 1, "not_judged": 1}
    assert json.loads(done.stdout)["not_judged"] == {"spoofed": 1}
    # Somebody who may write to the topic hides a denial, and somebody's kernel enforces the old version for too long.
    hidden = next(one for one in records if one["dest"].get("pod_name") == "db-0")
    forged = {**hidden, "id": "r1-99", "disposition": "allow", "reason": "policy", "policies": hidden["isolated_by"]}
    producer = Producer(site.connection)
    producer.produce(f"{site.prefix}.flows", json.dumps(forged | {"isolated_by": []}, separators=(",", ":")).encode())
    assert producer.flush(120) == 0
    past.send(second + 2 * DELAY_S * S, 80, denied=False)
    # Another forged record fits the policy of just before, but the node says that it already had the new one.
    past.send(second + 7 * S // 4, 80, denied=False)
    past.flows()
    done = verify(site)
    assert done.exit_code == 1, done.output
    assert "disagrees                 2 records" in done.stdout, "how long did the node have it?"
    past.state(3, time.time_ns(), None)
    past.send(time.time_ns(), 443, denied=True)
    past.flows()
    found = verify(site).stdout
    assert "disagrees                 3 records" in found
    assert "the policies that its node had in force: deny, default deny (shop/web-allow-api)" in found
    assert "shop/web-0 -> shop/db-0  tcp/80  egress  1 records" in done.stdout
    assert "weir explain r1-99" in done.stdout
    assert "the policies of its time: deny, default deny (shop/web-allow-api)" in done.stdout
    two = verify(site, "-o", "json", "--processes", "2")
    one = verify(site, "-o", "json", "--processes", "1")
    assert (two.exit_code, outcomes(two)) == (1, outcomes(one)), two.output
    assert len(json.loads(two.stdout)["findings"]) == 3
    monkeypatch.setattr("streams.cli.verify_shares.MAX_MEMORY", 1)
    alone = verify(site, "-o", "json", "--processes", "2")
    assert (alone.exit_code, outcomes(alone)) == (1, outcomes(one)), "the first judges what the others cannot"
    assert json.loads(verify(site, "-o", "json", "-n", "data").stdout)["others"] == 12


def test_without_records_or_a_journal_it_cannot_say(site: Site) -> None:
    done = verify(site)
    assert done.exit_code == 3
    assert "weir: there is no topic" in done.stderr
    past = Past(site)
    past.start()
    site.start_enrich(WEIR_CLUSTER="c1")
    past.allow(80)
    done = verify(site, "--strict")
    assert done.exit_code == 3
    assert "weir: cannot say:" in done.stderr
    assert "has no record of this window" in done.stderr
