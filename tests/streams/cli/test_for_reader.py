"""For a reader of one namespace, commands name nothing of others but ends that were seen. The page asks them so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from enrich.history.counted_time import CountedTime
from enrich.history.profile import number_of
from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.wire.journal import Profile
from enrich.wire.pair import HOUR_NS, Pair, PairEnd, PairKey
from enrich.wire.pair_coverage import CountedSpan, Coverage
from enrich.wire.references import PolicyRef
from streams.cli import advice_window
from streams.cli.main import command
from streams.cli.past import Past
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
    states = [WEB, DB, HIDDEN, namespace("shop"), namespace(OTHERS), policy("db", SPEC),
              policy("foreign", {"podSelector": {}}, OTHERS)]  # fmt: skip
    timeline = Timeline(CLUSTER, [begin(), *(entry(one, 0) for one in states)])
    by = (PolicyRef("NetworkPolicy", "shop", "db", 0),)
    pairs = [
        pair(DB, end(WEB), 40, reason="policy", policies=by),
        pair(HIDDEN, PairEnd(block="198.51.100.7/32"), 9),
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
    # Who may see everything is told.
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
