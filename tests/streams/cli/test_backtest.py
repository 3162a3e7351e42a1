"""The change that a backtest reads from files and options: each mistake is named, and nothing is half read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from enrich.history.change import Change
from enrich.history.counted_time import CountedTime
from enrich.history.profile import number_of
from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.model import ClusterNetworkPolicy
from enrich.wire.journal import Profile
from enrich.wire.pair import HOUR_NS, Pair, PairEnd, PairKey
from enrich.wire.pair_coverage import CountedSpan, Coverage
from streams.cli import advice_window
from streams.cli.backtest import ChangeError, end_text, read_change
from streams.cli.main import command
from streams.cli.past import Past
from tests.enrich.history.journals import CLUSTER, at, begin, entry, namespace
from tests.streams.cli.patience import give_up_after

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {}}
"""
GUARD = """
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}
"""


def _run(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(
        command, ["backtest", *map(str, arguments)], env={"WEIR_KAFKA": "127.0.0.1:1"}, input=stdin
    )


def test_files_and_folders_are_read_with_every_kind_of_policy(tmp_path: Path) -> None:
    (tmp_path / "db.yaml").write_text(POLICY + GUARD)
    for given in (tmp_path, tmp_path / "db.yaml"):
        made = read_change([given], ["NetworkPolicy/shop/web", "AdminNetworkPolicy/old"], replace_all=False)
        assert sorted(one.name for one in made.policies) == ["db", "guard"]
        assert isinstance(made.policies[1], ClusterNetworkPolicy)
        assert made.deleted == {("NetworkPolicy", "shop", "web"), ("AdminNetworkPolicy", "", "old")}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (POLICY.replace("podSelector", "podSelektor"), "document 1 (line 5): spec.podSelektor: there is no such field"),
        (
            POLICY.replace("/v1", "/v2"),
            "document 1 (line 2): apiVersion: NetworkPolicy must be networking.k8s.io/v1, is",
        ),
        ("kind: Namespace\napiVersion: v1\nmetadata: {name: a}\n", "there is no policy, only 1 Namespace"),
        (POLICY.replace("kind: Net", "kind: Nett"), "did you mean NetworkPolicy?"),
        (POLICY + "---\n" + POLICY, "document 2 (line 8): NetworkPolicy shop/db is also in"),
        ("{", "is not valid YAML"),
        ("", "is empty"),
        ("[]", "there is no policy, only 1 without apiVersion and kind"),
    ],
)
def test_a_file_that_the_api_would_refuse_is_named_with_document_and_field(
    tmp_path: Path, content: str, expected: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    done = _run(file)
    assert done.exit_code == 2
    assert f"weir: {file}" in done.stderr
    assert expected in done.stderr


def test_what_is_pasted_is_called_standard_input() -> None:
    text = "kind: Secret\napiVersion: v1\nmetadata: {name: a}\n"
    done = _run("-", stdin=text)
    assert (done.exit_code, done.stderr) == (2, "weir: standard input: there is no policy, only 1 Secret\n")


def test_other_kinds_beside_policies_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {anything: 1}\n"
    (tmp_path / "all.yaml").write_text(POLICY + deployment)
    assert [one.name for one in read_change([tmp_path], [], replace_all=False).policies] == ["db"]
    assert capsys.readouterr().err == "weir: not read, because only policies are: 1 Deployment\n"


@pytest.mark.parametrize(
    ("deleted", "expected"),
    [
        ("NetworkPolicy/db", "write NetworkPolicy/NAMESPACE/NAME"),
        ("ClusterNetworkPolicy/a/b", "write ClusterNetworkPolicy/NAME"),
        ("NetworkPolcy/a/b", "did you mean NetworkPolicy?"),
        ("NetworkPolicy/shop/db", "is both in a file and in --delete"),
    ],
)
def test_a_policy_to_delete_is_named_in_full(tmp_path: Path, deleted: str, expected: str) -> None:
    (tmp_path / "db.yaml").write_text(POLICY)
    with pytest.raises(ChangeError, match=expected.replace("?", r"\?")):
        read_change([tmp_path], [deleted], replace_all=False)


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (POLICY.replace("shop", "bank"), [], "NetworkPolicy db is of namespace bank: with -n shop, only its"),
        (POLICY.replace(", namespace: shop", ""), [], "is of namespace default: with -n shop"),
        (POLICY + GUARD, [], "ClusterNetworkPolicy guard is of the whole cluster: with -n shop"),
        (POLICY, ["--delete", "NetworkPolicy/bank/db"], "NetworkPolicy db is of namespace bank"),
        (POLICY, ["--delete", "AdminNetworkPolicy/old"], "AdminNetworkPolicy old is of the whole cluster"),
        (POLICY, ["--replace"], "--replace is about the policies of all namespaces"),
    ],
)
def test_for_a_namespace_only_its_own_policies_may_change(
    tmp_path: Path, content: str, options: list[str], expected: str
) -> None:
    (tmp_path / "db.yaml").write_text(content)
    done = _run("-n", "shop", tmp_path, *options)
    assert done.exit_code == 2
    assert expected in done.stderr


def test_nothing_to_change_is_a_mistake_and_an_empty_folder_too(tmp_path: Path) -> None:
    assert "name at least one FILE" in _run().stderr
    assert "has no file that ends in" in _run(tmp_path).stderr
    assert Change() != Change(replace_all=True)


def test_without_a_broker_there_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_up_after(0.2, 0.2, monkeypatch)
    (tmp_path / "db.yaml").write_text(POLICY)
    done = _run(tmp_path)
    assert done.exit_code == 3
    assert "127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (PairEnd(profile="0" * 16, namespace="a", workload="Deployment/b"), "a/b"),
        (PairEnd(profile="0" * 16, namespace="a"), "a/(a pod of its own)"),
        (PairEnd(node="n1"), "node n1"),
        (PairEnd(block="10.0.0.1/32"), "10.0.0.1"),
        (PairEnd(block="10.0.0.0/24", coarse=True), "10.0.0.0/24 (coarse)"),
        (PairEnd(unknown=True), "(not known)"),
    ],
)
def test_ends_are_written_as_people_know_them(end: PairEnd, text: str) -> None:
    assert end_text(end) == text


class Pairs:
    """One pair of the first hour, as :class:`streams.cli.pairs_reading.PairsReading` gives it."""

    unreadable = 1
    late = 0

    def __init__(self, pair: Pair) -> None:
        self._pair, self.complete_since_hour = pair, pair.hour
        self.counted = CountedTime()
        spans = tuple(
            CountedSpan(0, begin, begin + 1, at(begin) // 10**9, at(begin + 60) // 10**9) for begin in (0, 200)
        )
        self.counted.take(Coverage(cluster=CLUSTER, segment="a", partitions=1, spans=spans))

    def __iter__(self) -> Iterator[Pair]:
        return iter([self._pair, msgspec.structs.replace(self._pair, first_ns=1, last_ns=1)])


def test_a_journal_that_has_ended_still_answers_for_what_was_seen_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "db.yaml").write_text(POLICY)
    db = Profile(namespace="shop", workload_kind="Deployment", workload_name="db", labels={"app": "db"})
    key = PairKey(
        subject=PairEnd(profile=number_of(db), namespace="shop", workload="Deployment/db"), verdict="allow",
        peer=PairEnd(block="198.51.100.7/32"), direction="ingress", protocol=6, port=5432, reason="no_policy",
    )  # fmt: skip
    pair = Pair(
        cluster=CLUSTER, hour=at(60) // HOUR_NS, key=key, verdicts=7, packets=7, first_ns=at(60), last_ns=at(120)
    )
    timeline = Timeline(CLUSTER, [begin(), entry(db, 0), entry(namespace("shop"), 0)], at(3_600))
    monkeypatch.setattr(advice_window, "load_past", lambda *_: Past(timeline, Known(timeline.profiles)))
    monkeypatch.setattr(advice_window, "read_pairs", lambda *_: Pairs(pair))
    done = _run(tmp_path)
    assert done.exit_code == 1, done.output
    assert "198.51.100.7 -> shop/db  tcp/5432  ingress  7 connections" in done.stdout
    for note in ("the pairs are complete from", "1 records of pairs cannot be read", "the journal ends at"):
        assert f"weir: {note}" in done.stderr
    # What was not counted may have been allowed, and be denied now.
    (tmp_path / "db.yaml").unlink()
    deleted = ["backtest", "--delete", "NetworkPolicy/shop/other"]
    assert [CliRunner().invoke(command, [*deleted, *more], env={"WEIR_KAFKA": "127.0.0.1:1"}).exit_code
            for more in ((), ("--strict",))] == [0, 3]  # fmt: skip
    refused = CliRunner().invoke(command, ["policies"], env={"WEIR_KAFKA": "127.0.0.1:1"})
    assert refused.exit_code == 3
    assert "weir: cannot say: the policies at" in refused.stderr
