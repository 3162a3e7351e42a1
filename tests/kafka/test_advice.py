"""`weir recommend`, `weir policies` and `weir diff` on a real journal and real pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from enrich.history.profile import number_of
from enrich.sources.manifest_files import read_folder
from enrich.wire.journal import ContainerPort, Profile
from enrich.wire.pair import PairEnd, PairKey
from enrich.wire.references import PolicyRef
from streams.cli.main import command
from tests.enrich.history.journals import begin, entry, namespace, node, policy
from tests.kafka.pasts import write_past
from tests.kafka.site import Site

pytestmark = pytest.mark.kafka

PROFILES = [
    Profile(
        namespace="shop",
        workload_kind="Deployment",
        workload_name=name,
        labels={"app": name},
        ports=(ContainerPort("main", 5432, 6),),
    )
    for name in ("web", "db", "spy")
]
WEB, DB, SPY = (
    PairEnd(profile=number_of(one), namespace="shop", workload=f"Deployment/{one.workload_name}") for one in PROFILES
)
OLD = policy(
    "old",
    {
        "podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}, {"from": [{"podSelector": {}}]}],
    },
)
JOURNAL = [
    begin(),
    *(entry(one, 0) for one in PROFILES),
    entry(namespace("shop"), 0),
    entry(node("n1", "192.168.0.1", pod_cidrs=("10.0.0.0/24",)), 0),
    entry(OLD, 0),
]


def key(subject: PairEnd, peer: PairEnd, **more: Any) -> PairKey:
    rule = PolicyRef("NetworkPolicy", "shop", "old", 0)
    given = {"direction": "ingress", "protocol": 6, "port": 5432, "verdict": "allow", "reason": "policy", **more}
    return PairKey(subject=subject, peer=peer, policies=(rule,), **given)


SEEN = [
    (key(DB, WEB), 7),
    (key(DB, SPY, verdict="deny", reason="default_deny"), 3),
    (key(WEB, PairEnd(block="198.51.100.7/32"), direction="egress", port=443, reason="no_policy"), 2),
]


def run(site: Site, *arguments: str | Path) -> Result:
    env = {"WEIR_KAFKA": site.connection["bootstrap.servers"], "WEIR_TOPIC_PREFIX": site.prefix}
    return CliRunner().invoke(command, list(map(str, arguments)), env=env)


def test_what_was_seen_becomes_policies_with_their_proof(site: Site, tmp_path: Path) -> None:
    write_past(site, JOURNAL, SEEN)
    done = run(site, "recommend", "-n", "shop", "--since", "1d")
    assert done.exit_code == 0, done.output
    assert "allows 100 % of the observed allows: 9 connections" in done.stderr
    assert "allows none of the observed denies: 3 packets" in done.stderr
    specs = {one["metadata"]["name"]: one["spec"] for one in yaml.safe_load_all(done.stdout)}
    assert specs["seen-db"]["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "ports": [{"protocol": "TCP", "port": "main"}],
        }
    ]
    assert specs["seen-web"]["egress"][0]["to"] == [{"ipBlock": {"cidr": "198.51.100.7/32"}}]
    done = run(site, "recommend", "--since", "1d", "--audit", "--output-dir", tmp_path / "made")
    assert (done.exit_code, done.stdout) == (0, "")
    assert sorted(one.name for one in read_folder(tmp_path / "made")) == ["seen-db", "seen-web"]
    assert "instead of: old" in (tmp_path / "made" / "shop.yaml").read_text()
    found = json.loads(run(site, "recommend", "--since", "1d", "-o", "json").stdout)
    assert found[0]["proof"]["complete"]
    assert found[0]["policies"][0]["evidence"]["ingress"][0][0]["connections"] == 7


def test_what_cannot_be_allowed_is_named_and_is_an_error(site: Site) -> None:
    write_past(site, JOURNAL, [*SEEN, (key(DB, SPY), 5)])
    done = run(site, "recommend", "--since", "1d")
    assert done.exit_code == 1, done.output
    assert "would deny: shop Deployment/db <- shop Deployment/spy, 5432/TCP: 5 connections" in done.stderr


def test_rules_that_were_used_are_told_from_others(site: Site) -> None:
    write_past(site, JOURNAL, SEEN)
    done = run(site, "policies", "-n", "shop", "--since", "1d", "-o", "json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["policies"]
    assert (found["name"], found["selects"]) == ("old", ["shop/Deployment/db"])
    assert (found["allowed_connections"], found["denied_packets"]) == (7 + 2, 3)
    assert [rule["state"] for rule in found["rules"]] == ["adds nothing", "not seen"]
    table = run(site, "policies", "--since", "1d")
    assert table.exit_code == 0
    assert "rule 1 of shop/old allows the same" in table.stdout


def test_what_a_change_denies_that_was_used_is_an_error(site: Site, tmp_path: Path) -> None:
    write_past(site, JOURNAL, SEEN)
    new = tmp_path / "new"
    new.mkdir()
    text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: old, namespace: shop}\nspec:\n"
    (new / "old.yaml").write_text(text + "  podSelector: {matchLabels: {app: db}}\n")
    done = run(site, "diff", "cluster", new, "--since", "1d")
    assert done.exit_code == 1, done.output
    peers = "shop Deployment/db, shop Deployment/spy, shop Deployment/web"
    assert f"denied: shop Deployment/db <- {peers}: everything" in done.stdout
    assert "shop Deployment/db <- shop Deployment/web, 5432/TCP: 7 connections" in done.stdout
    back = json.loads(run(site, "diff", new, "cluster", "--since", "1d", "-o", "json").stdout)
    assert [one["text"] for one in back["becomes_allowed"]] == ["shop Deployment/db <- shop Deployment/spy, 5432/TCP"]
    same = run(site, "diff", "cluster", "cluster", "--since", "1d")
    assert (same.exit_code, same.stdout.splitlines()[0]) == (0, "nothing becomes allowed or denied")


def test_what_a_change_may_deny_fails_only_if_it_must(site: Site, tmp_path: Path) -> None:
    write_past(site, JOURNAL, [*SEEN, (key(DB, PairEnd(unknown=True)), 4)])
    text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: NAME, namespace: shop}\nspec:\n"
    rules = (
        "  podSelector: {matchLabels: {app: NAME}}\n  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]\n"
    )
    for name in ("db", "spy"):
        (tmp_path / f"{name}.yaml").write_text((text + rules).replace("NAME", name))
    about_db, about_spy = (
        ["diff", "cluster", str(tmp_path / f"{name}.yaml"), "--since", "1d"] for name in ("db", "spy")
    )
    assert run(site, *about_db).exit_code == 0
    strict = run(site, *about_db, "--strict")
    assert strict.exit_code == 3
    assert "cannot say for 1 of the connections seen: the other end is not known for certain" in strict.stderr
    assert run(site, *about_spy).exit_code == 0
    strict = run(site, *about_spy, "--strict")
    assert strict.exit_code == 3
    assert "cannot say for" not in strict.stderr, "the change is not about that pod"
    assert "the pairs are complete from" in strict.stderr, "the topic is younger than the window"


def test_a_pod_that_dials_its_own_node_is_denied_only_by_a_tier(site: Site, tmp_path: Path) -> None:
    dialled = msgspec.structs.replace(key(WEB, PairEnd(node="n1"), direction="egress", reason="node"), policies=())
    write_past(site, JOURNAL, [*SEEN, (dialled, 6)])
    new = tmp_path / "new.yaml"
    new.write_text(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: no-nodes}\n"
        "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}]}]}\n"
    )
    done = run(site, "diff", "cluster", new, "--since", "1d")
    assert done.exit_code == 1, done.output
    assert "own node n1" in done.stdout
    assert "shop Deployment/web -> node n1, 5432/TCP: 6 connections" in done.stdout
    isolates = tmp_path / "web.yaml"
    isolates.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n"
        "spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], "
        "egress: [{to: [{ipBlock: {cidr: 198.51.100.7/32}}]}]}\n"
    )
    done = run(site, "diff", "cluster", isolates, "--since", "1d")
    assert done.exit_code == 0, done.output
    assert "own node n1" not in done.stdout


def test_a_file_that_is_wrong_is_named_with_its_field(site: Site, tmp_path: Path) -> None:
    new = tmp_path / "a.yaml"
    new.write_text("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: A}\n")
    done = run(site, "diff", "cluster", new)
    assert done.exit_code == 2
    assert "a.yaml, document 1 (line 3): metadata.name" in done.stderr


def test_without_a_journal_there_is_no_answer(site: Site) -> None:
    for arguments in (["recommend"], ["policies"], ["diff", "cluster", "cluster"]):
        done = run(site, *arguments)
        assert done.exit_code == 3, done.output
        assert done.stderr
