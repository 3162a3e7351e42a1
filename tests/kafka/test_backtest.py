"""`weir backtest` on a real journal and real pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from enrich.history.profile import number_of
from enrich.wire.journal import JournalEntry, Profile
from enrich.wire.pair import HOUR_NS, PairEnd, PairKey
from enrich.wire.references import PolicyRef
from streams.cli.main import command
from tests.enrich.history.journals import START_NS, begin, entry, namespace, node, policy
from tests.kafka.pasts import HOUR, write_past
from tests.kafka.site import Site

pytestmark = pytest.mark.kafka

PROFILES = [
    Profile(namespace="shop", workload_kind="Deployment", workload_name=name, labels={"app": name})
    for name in ("web", "db", "spy")
]
WEB, DB, SPY = (
    PairEnd(profile=number_of(one), namespace="shop", workload=f"Deployment/{one.workload_name}") for one in PROFILES
)
WORLD = PairEnd(block="198.51.100.7/32")
LOCKED = policy("locked", {"podSelector": {"matchLabels": {"app": "db"}}})
JOURNAL = [
    begin(), *(entry(one, 0) for one in PROFILES), entry(namespace("shop"), 0),
    entry(node("n1", "192.168.0.1", pod_cidrs=("10.0.0.0/24",)), 0),
    entry(policy("other", {"podSelector": {"matchLabels": {"app": "nothing"}}}), 0),
]  # fmt: skip


def _key(subject: PairEnd, peer: PairEnd, **more: Any) -> PairKey:
    given = {"direction": "ingress", "protocol": 6, "port": 5432, "verdict": "allow", "reason": "no_policy", **more}
    return PairKey(subject=subject, peer=peer, **given)


FROM_WEB, FROM_SPY, TO_WORLD = _key(DB, WEB), _key(DB, SPY), _key(WEB, WORLD, direction="egress", port=443)
DENIED = _key(DB, SPY, verdict="deny", reason="default_deny", policies=(PolicyRef("NetworkPolicy", "shop", "locked"),))
ALLOW_WEB = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}]
"""


def _run(site: Site, *arguments: str | Path) -> Result:
    env = {"WEIR_KAFKA": site.connection["bootstrap.servers"], "WEIR_TOPIC_PREFIX": site.prefix}
    return CliRunner().invoke(command, ["backtest", *map(str, arguments)], env=env)


def _past(site: Site, pairs: Sequence[tuple[PairKey, int]], journal: Sequence[JournalEntry] = JOURNAL) -> None:
    write_past(site, journal, pairs)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "db.yaml"
    made.write_text(ALLOW_WEB)
    return made


def test_what_would_be_denied_is_named_and_fails_a_pipeline(site: Site, file: Path) -> None:
    _past(site, [(FROM_WEB, 7), (FROM_SPY, 3), (TO_WORLD, 2)])
    done = _run(site, file, "-o", "json")
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert found["sums"]["newly_denied"] == {"pairs": 1, "connections": 3}
    assert found["sums"]["unchanged"] == {"pairs": 2, "connections": 9}
    (one,) = found["findings"]
    assert (one["subject"]["workload"], one["peer"]["workload"]) == ("Deployment/db", "Deployment/spy")
    assert one["would"]["reason"] == "default_deny"
    assert one["failed"] == ["shop/db rule 0: from[0].podSelector requires app=web, but pod shop/spy has app=spy"]
    table = _run(site, file)
    assert table.exit_code == 1
    assert "shop/spy -> shop/db  tcp/5432  ingress  3 connections" in table.stdout
    assert _run(site, file, "--since", f"{HOUR_NS // 10**9}s").exit_code == 3, "nothing was seen in the last hour"


def test_what_would_be_allowed_or_stays_denied_is_no_failure(site: Site, file: Path) -> None:
    _past(site, [(DENIED, 4)], [*JOURNAL, entry(LOCKED, 0)])
    done = _run(site, file, "-o", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sums"]["unchanged"]["pairs"] == 1
    done = _run(site, "--delete", "NetworkPolicy/shop/locked", "-o", "json")
    assert done.exit_code == 0, done.output
    assert [one["outcome"] for one in json.loads(done.stdout)["findings"]] == ["newly allowed"]
    done = _run(site, "--delete", "NetworkPolicy/shop/absent")
    assert "there was no NetworkPolicy/shop/absent to delete" in done.stderr


def test_a_window_older_than_what_is_kept_says_from_when_on_it_can_answer(site: Site, file: Path) -> None:
    _past(site, [(FROM_WEB, 7)])
    done = _run(site, file, "--since", "30d")
    assert done.exit_code == 0, done.output
    assert "the journal can answer from" in done.stderr
    assert "the pairs are complete from" in done.stderr


def test_a_pair_without_an_answer_fails_only_if_it_must(site: Site, file: Path) -> None:
    unknown = _key(DB, PairEnd(unknown=True))
    _past(site, [(FROM_WEB, 7), (unknown, 1)])
    assert _run(site, file).exit_code == 0
    done = _run(site, file, "--strict")
    assert done.exit_code == 3
    assert "cannot say: it is not known which pod, if any, had the peer's address" in done.stdout


def test_without_a_journal_there_is_no_answer(site: Site, file: Path) -> None:
    done = _run(site, file)
    assert done.exit_code == 3
    assert "The journal is off where workers have WEIR_JOURNAL_DAYS=0" in done.stderr
    assert START_NS < HOUR * HOUR_NS
