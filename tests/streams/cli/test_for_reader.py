"""For a reader of one namespace, commands name nothing of others but ends that were seen. The page asks them so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from enrich.history import backtest
from enrich.history.counted_time import CountedTime
from enrich.history.profile import number_of
from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.wire.journal import ContainerPort, Profile
from enrich.wire.pair import HOUR_NS, Pair, PairEnd, PairKey
from enrich.wire.pair_coverage import CountedSpan, Coverage
from enrich.wire.references import PolicyRef
from streams.cli import advice_window
from streams.cli.main import command
from streams.cli.past import Past
from tests.enrich.history.advice.policies import cluster_policy
from tests.enrich.history.journals import CLUSTER, at, begin, entry, namespace, policy

OTHERS = "x9-other"
"""A namespace that the reader may not see."""
WEB, DB = (
    Profile(namespace="shop", workload_kind="Deployment", workload_name=name, labels={"app": name})
    for name in ("web", "db")
)
SPEC = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}  # fmt: skip
HIDDEN = Profile(namespace=OTHERS, workload_kind="Deployment", workload_name="hidden", labels={"app": "s"})


def end(profile: Profile) -> PairEnd:
    workload = f"{profile.workload_kind}/{profile.workload_name}"
    return PairEnd(profile=number_of(profile), namespace=profile.namespace, workload=workload)


def pair(subject: Profile, peer: PairEnd, verdicts: int, **more: Any) -> Pair:
    given = {"direction": "ingress", "protocol": 6, "port": 5432, "verdict": "allow", "reason": "no_policy", **more}
    key = PairKey(subject=end(subject), peer=peer, **given)
    return Pair(cluster=CLUSTER, hour=at(60) // HOUR_NS, key=key, verdicts=verdicts, packets=verdicts,
                first_ns=at(60), last_ns=at(120))  # fmt: skip


class Pairs:
    """Pairs of the first hour, as :class:`streams.cli.pairs_reading.PairsReading` gives them."""

    unreadable = late = 0
    has_losses = False

    def __init__(self, pairs: list[Pair]) -> None:
        self._pairs, self.complete_since_hour = pairs, 0
        self.counted = CountedTime()
        span = CountedSpan(0, 0, 1, 0, at(7 * 86_400) // 10**9)
        self.counted.take(Coverage(cluster=CLUSTER, segment="a", partitions=1, spans=(span,)))

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)


@pytest.fixture(autouse=True)
def _past(monkeypatch: pytest.MonkeyPatch) -> None:
    use_past(monkeypatch)


def use_past(monkeypatch: pytest.MonkeyPatch, *more: Any, **namespace_labels: str) -> None:
    """Let commands find a past in which some further states and pairs are, and namespaces with some labels."""
    states = [WEB, DB, HIDDEN, namespace("shop"), namespace(OTHERS, **namespace_labels), policy("db", SPEC),
              policy("foreign", {"podSelector": {}}, OTHERS)]  # fmt: skip
    states += [one for one in more if not isinstance(one, Pair)]
    timeline = Timeline(CLUSTER, [begin(), *(entry(one, 0) for one in states)])
    by = (PolicyRef("NetworkPolicy", "shop", "db", 0),)
    pairs = [
        pair(DB, end(WEB), 40, reason="policy", policies=by),
        pair(HIDDEN, PairEnd(block="198.51.100.7/32"), 9),
        *(one for one in more if isinstance(one, Pair)),
    ]
    notes = [f"2 profiles of pods did not fit the journal: what pods of {OTHERS} are is not all known"]
    monkeypatch.setattr(advice_window, "load_past", lambda *_: Past(timeline, Known(timeline.profiles), list(notes)))
    monkeypatch.setattr(advice_window, "read_pairs", lambda *_: Pairs(pairs))


def ask(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(
        command, [words[0], "-o", "json", *words[1:]], env={"WEIR_KAFKA": "127.0.0.1:1"}, input=stdin
    )


READER = ("-n", "shop", "--for-reader")


@pytest.mark.parametrize(
    "words", [("policies", "--manifests"), ("recommend",), ("backtest", "--delete", "NetworkPolicy/shop/db")]
)
def test_nothing_of_others_is_named(words: tuple[str, ...]) -> None:
    done = ask(*words, *READER)
    assert done.exit_code in (0, 1), done.output
    assert OTHERS not in done.output
    assert "1 notes about the whole cluster are left out" in done.output
    # Somebody who may see everything gets them.
    assert OTHERS in ask(*words, "-n", "shop").output


def test_a_policy_has_its_yaml() -> None:
    (found,) = json.loads(ask("policies", "--manifests", *READER).stdout)["policies"]
    assert (found["name"], found["selects"], found["allowed_connections"]) == ("db", ["shop/Deployment/db"], 40)
    assert yaml.safe_load(found["yaml"])["spec"] == SPEC
    assert "yaml" not in json.loads(ask("policies", *READER).stdout)["policies"][0]


def test_recommended_policies_have_their_yaml_and_their_proof() -> None:
    (found,) = json.loads(ask("recommend", *READER).stdout)
    assert [one["metadata"]["namespace"] for one in yaml.safe_load_all(found["yaml"])] == ["shop"]
    assert (found["proof"]["complete"], found["proof"]["allowed"]["connections"]) == (True, 40)


def test_a_backtest_of_a_namespace_is_about_its_pods() -> None:
    closed = policy("db", {"podSelector": {}})
    text = yaml.safe_dump({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {}},
                           "metadata": {"name": closed.name, "namespace": closed.namespace}})  # fmt: skip
    done = ask("backtest", *READER, "--", "-", stdin=text)
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert found["sums"]["newly_denied"] == {"pairs": 1, "connections": 40}
    assert sum(one["connections"] for one in found["sums"].values()) == 40
    assert (
        sum(one["connections"] for one in json.loads(ask("backtest", "--", "-", stdin=text).stdout)["sums"].values())
        == 49
    )


def test_a_backtest_says_how_many_findings_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a hundred thousand, and the page shows some hundreds."""
    explained = 0
    explain = backtest._explain

    def counted(*given: Any, **more: Any) -> None:
        nonlocal explained
        explained += 1
        explain(*given, **more)

    monkeypatch.setattr(backtest, "_explain", counted)
    by = (PolicyRef("NetworkPolicy", "shop", "db", 0),)
    use_past(monkeypatch, *(pair(DB, end(WEB), 9, port=port, reason="policy", policies=by) for port in range(1, 10)))
    closed = yaml.safe_dump({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {}},
                             "metadata": {"name": "db", "namespace": "shop"}})  # fmt: skip
    everything = json.loads(ask("backtest", "-", stdin=closed).stdout)
    assert (len(everything["findings"]), everything["left_out"], explained) == (11, 0, 11)
    some = json.loads(ask("backtest", "--most", "2", "-", stdin=closed).stdout)
    assert (some["findings"], some["left_out"], explained) == (everything["findings"][:2], 9, 13)
    assert some["sums"] == everything["sums"]


def backtested(monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], *more: Any) -> tuple[str, list[dict[str, Any]]]:
    """Return what a backtest of the policy shop/egress says to who may see everything, and its findings for a reader
    of shop. The namespace and the pods of the other end have labels that records do not have."""
    use_past(monkeypatch, API, *more, customer="x9-namespace-label")
    text = yaml.safe_dump({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": spec,
                           "metadata": {"name": "egress", "namespace": "shop"}})  # fmt: skip
    for_all = ask("backtest", "-n", "shop", "--", "-", stdin=text).output
    return for_all, json.loads(ask("backtest", *READER, "--", "-", stdin=text).stdout)["findings"]


API = Profile(namespace=OTHERS, workload_kind="Deployment", workload_name="api", labels={"grade": "x9-pod-label"},
              ports=(ContainerPort("http", 4242, 6),))  # fmt: skip
TO_API = {"direction": "egress", "port": 8080}


def test_a_backtest_does_not_say_what_the_labels_of_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pastes a policy chooses which labels it asks for."""
    grades = {"matchExpressions": [{"key": "grade", "operator": "In", "values": ["q", "r"]}]}
    to = [{"namespaceSelector": {"matchLabels": {"customer": "q"}}}, {"namespaceSelector": {}, "podSelector": grades}]
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"],
            "egress": [{"to": to, "ports": [{"port": "http", "protocol": "TCP"}]}]}  # fmt: skip
    for_all, (found,) = backtested(monkeypatch, spec, pair(WEB, end(API), 5, **TO_API))
    assert all(one in for_all for one in ("x9-namespace-label", "x9-pod-label", "4242"))
    assert found["failed"] == [
        "shop/egress rule 0: to[0].namespaceSelector requires customer=q",
        "shop/egress rule 0: to[1].podSelector requires grade in (q, r)",
        "shop/egress rule 0: port 8080/TCP is not among http/TCP",
    ]


def test_a_backtest_does_not_say_what_rules_of_the_whole_cluster_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = {"namespaces": {"matchLabels": {"customer": "x9-tenant"}}}
    base = cluster_policy("base", {"tier": "Baseline", "egress": [
        {"action": "Accept", "to": [tenants]}, {"action": "Deny", "to": [{"namespaces": {}}]}]})  # fmt: skip
    opened = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress": [{}]}
    of_nobody = {**opened, "podSelector": {"matchLabels": {"app": "nobody"}}}
    by = (PolicyRef("NetworkPolicy", "shop", "egress", 0),)
    seen = pair(WEB, end(API), 5, reason="policy", policies=by, **TO_API)
    for_all, (found,) = backtested(monkeypatch, of_nobody, base, policy("egress", opened), seen)
    assert "x9-tenant" in for_all
    assert (found["would"]["policies"][0]["name"], found["failed"]) == ("base", [])
