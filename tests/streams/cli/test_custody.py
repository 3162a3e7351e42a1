"""The chain of custody adds up, and anything lost at a stage is named by stage, node and reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from enrich.wire.tally import KernelTally, NodeState, SpoolTally, Tally
from streams.cli.custody import NodeCustody, Tallies, in_all
from streams.cli.custody_sums import STAGES, Finished, Heard, TallyRecord, decode_tally
from streams.cli.custody_text import Failure, LostReports, Refusal, Report, SeenWorker, as_json, as_text
from streams.kafka.group_positions import GroupPosition

NOW = 10_000.0
START = 6_400.0

KERNEL = KernelTally(
    decided=(1000, 1000), written=700, waiting=20, ring=(500, 500), verdicts=500,
    cut={"logging_allowed": 200, "limit_denied": 30}, lost={"ring_full": 50},
)  # fmt: skip
SPOOL = SpoolTally(begin=0, next=450, published=430, removed={"spool_full": 15, "refused": 5})
DONE = Finished(begin=0, read=480, enriched=475, written=470, unlogged=3, dead=5, refused=2,
                missing={"spool_full": 15, "refused": 5})  # fmt: skip


def record(node: str = "n1", ring: str = "r1", **fields: Any) -> TallyRecord:
    """A tally of 500 verdicts; ``kernel_X``, ``spool_X`` and ``done_X`` are fields that differ."""

    def part(name: str, value: Any) -> Any:
        begin = f"{name}_"
        changed = {key.removeprefix(begin): fields.pop(key) for key in list(fields) if key.startswith(begin)}
        return msgspec.structs.replace(value, **changed)

    kernel, spool, done = part("kernel", KERNEL), part("spool", SPOOL), part("done", DONE)
    state = fields.pop("state", NodeState(version="1.0"))
    tally = Tally(at=1, every=10, kernel=kernel, spool=spool, state=state)
    return TallyRecord("tally", "c1", node, ring, fields.pop("next", 500), done, tally)


def look(*records: TallyRecord, at: float = NOW - 5) -> list[NodeCustody]:
    tallies = Tallies(START)
    for one in records:
        tallies.add(Heard(at, one))
    return tallies.nodes(NOW)


def problems(*records: TallyRecord) -> list[tuple[str, str, str, int]]:
    return [(one.node, one.stage, one.reason, one.count) for node in look(*records) for one in node.problems]


def test_what_has_a_reason_adds_up() -> None:
    assert problems(record(), record("n2", "r2")) == []
    [node] = look(record())
    assert {stage: one.missing for stage, one in node.sums.items()} == dict.fromkeys(STAGES, 0)


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"kernel_written": 697}, ("kernel", "nowhere", 3)),
        ({"kernel_waiting": 24}, ("kernel", "twice", 4)),
        ({"kernel_verdicts": 499}, ("ring", "nowhere", 1)),
        ({"spool_published": 420}, ("spool", "nowhere", 10)),
        ({"done_read": 470, "done_enriched": 465, "done_written": 460}, ("arrival", "nowhere", 10)),
        ({"done_enriched": 474, "done_written": 469}, ("enrichment", "nowhere", 1)),
        ({"done_dead": 6}, ("enrichment", "twice", 1)),
        ({"done_written": 463}, ("flows", "nowhere", 7)),
        ({"next": 510, "done_missing": {"gap": 10, "spool_full": 20}}, ("arrival", "gap", 10)),
        ({"next": 510, "done_missing": {"gap_unknown": 10, "spool_full": 20}}, ("arrival", "gap_unknown", 10)),
    ],
)
def test_what_is_lost_at_a_stage_is_named_by_stage_node_and_reason(
    planted: dict[str, Any], expected: tuple[str, str, int]
) -> None:
    assert problems(record("n1", "r1"), record("n2", "r2", **planted)) == [("n2", *expected)]


def test_what_retention_removed_has_a_reason() -> None:
    assert problems(record(next=520, done_missing={"expired": 20, "spool_full": 20})) == []


def test_a_kernel_that_counts_on_while_it_is_read_is_exact_to_what_it_decided_meanwhile() -> None:
    assert problems(record(kernel_decided=(995, 1010))) == []
    assert problems(record(kernel_decided=(1001, 1010))) == [("n1", "kernel", "nowhere", 1)]
    assert problems(record(kernel_decided=(980, 999))) == [("n1", "kernel", "twice", 1)]


def test_a_tally_that_came_before_its_verdicts_is_named() -> None:
    assert problems(record(next=480, done_read=460, done_enriched=455, done_written=450)) == [
        ("n1", "ring", "not_finished", 20)
    ]


def later(**fields: Any) -> TallyRecord:
    """The same ring when all terms have doubled."""
    return record(
        kernel_decided=(2000, 2000), kernel_written=1400, kernel_waiting=40, kernel_ring=(1000, 1000),
        kernel_verdicts=1000, kernel_cut={"logging_allowed": 400, "limit_denied": 60}, kernel_lost={"ring_full": 100},
        spool_next=900, spool_published=860, spool_removed={"spool_full": 30, "refused": 10}, next=1000,
        done_read=960, done_enriched=950, done_written=940, done_unlogged=6, done_dead=10, done_refused=4,
        done_missing={"spool_full": 30, "refused": 10}, **fields,
    )  # fmt: skip


def test_a_window_counts_from_the_newest_tally_before_it() -> None:
    tallies = Tallies(START)
    for at, one in ((START - 20, record(done_written=1, kernel_written=1)), (START - 10, record()), (NOW, later())):
        tallies.add(Heard(at, one))
    [node] = tallies.nodes(NOW)
    assert node.problems == []
    assert {stage: one.value for stage, one in node.sums.items()} == {
        "kernel": 1000, "ring": 500, "spool": 450, "arrival": 500, "enrichment": 480, "flows": 475,
    }  # fmt: skip


def test_a_loss_in_the_window_is_seen_though_the_ring_had_others_before() -> None:
    tallies = Tallies(START)
    tallies.add(Heard(START - 10, record(kernel_lost={"ring_full": 45})))
    tallies.add(Heard(NOW, later()))
    [node] = tallies.nodes(NOW)
    assert [(one.stage, one.reason, one.count) for one in node.problems] == [("kernel", "twice", 5)]


def test_a_restarted_probe_and_a_counting_that_began_anew_are_no_loss_and_what_no_worker_counted_is_one() -> None:
    tallies = Tallies(START)
    tallies.add(Heard(START - 10, record()))
    again = SpoolTally(begin=470, next=480, published=10)
    restarted = record(done_begin=505, next=505)
    done = Finished(begin=505, read=0, enriched=0, written=0, unlogged=0, dead=0, refused=0)
    tally = msgspec.structs.replace(restarted.tally, spool=again)
    tallies.add(Heard(NOW, msgspec.structs.replace(restarted, finished=done, tally=tally)))
    [node] = tallies.nodes(NOW)
    assert [(one.stage, one.reason, one.count) for one in node.problems] == [("arrival", "not_counted", 5)]


@pytest.mark.parametrize("is_known_before", [False, True])
def test_what_was_missing_before_the_counting_began_anew_is_not_forgotten(is_known_before: bool) -> None:
    tallies = Tallies(START)
    if is_known_before:
        tallies.add(Heard(START - 10, record()))
    missing = {"gap": 20, "spool_full": 15, "refused": 5}
    tallies.add(Heard(START + 10, record(next=520, done_missing=missing, spool_next=480, spool_published=450)))
    for begin in (525, 527):
        done = Finished(begin=begin, read=0, enriched=0, written=0, unlogged=0, dead=0, refused=0)
        anew = record(next=begin, spool_begin=begin, spool_next=begin, spool_published=0, spool_removed={})
        tallies.add(Heard(NOW, msgspec.structs.replace(anew, finished=done)))
    [node] = tallies.nodes(NOW)
    assert [(one.stage, one.reason, one.count) for one in node.problems] == [
        ("spool", "nowhere", 10), ("arrival", "gap", 20), ("arrival", "not_counted", 7)
    ]  # fmt: skip
    assert node.sums["flows"].parts["written"] == (0 if is_known_before else 470)


def test_an_old_tally_that_a_frozen_worker_writes_late_counts_nothing() -> None:
    tallies = Tallies(START)
    for one in (later(), record()):
        tallies.add(Heard(NOW, one))
    [node] = tallies.nodes(NOW)
    assert node.problems == []
    assert node.sums["arrival"].value == 1000


def test_a_reason_that_somebody_has_made_up_takes_the_place_of_no_count() -> None:
    missing = {"read": 480, "spool_full": 15, "refused": 5}
    made_up = record(done_read=470, done_enriched=465, done_written=460, done_missing=missing, spool_published=0,
                     spool_removed={"published": 450})  # fmt: skip
    assert problems(made_up) == [("n1", "spool", "nowhere", 450), ("n1", "arrival", "nowhere", 10)]


def test_the_rings_of_a_node_are_added_and_all_nodes_too() -> None:
    nodes = look(record("n1", "r1"), record("n1", "r2"), record("n2", "r3"))
    assert [node.sums["kernel"].value for node in nodes] == [2000, 1000]
    assert in_all(nodes)["flows"].parts == {"written": 1410, "unlogged": 9, "refused": 6}


def test_a_node_that_is_not_heard_of_is_named_with_the_time() -> None:
    [node] = look(record(), at=NOW - 31)
    assert node.is_silent
    assert [(one.stage, one.reason, one.text) for one in node.problems] == [
        ("silence", "silent", "not heard of since 1970-01-01T02:46:09Z: what it has decided since is not known")
    ]
    assert any("1970-01-01T02:46:09Z" in line for line in as_text(Report(START, NOW, [node], [])))
    tallies = Tallies(START)
    tallies.add(Heard(NOW, record()))
    seen = {("c1", "n1"): NOW, ("c1", "n2"): START - 100, ("c1", "n3"): NOW, ("", "n1"): NOW, ("", "n4"): NOW}
    assert [(one.node, one.reason) for one in tallies.unheard(seen)] == [
        ("n4", "no_tally"), ("n2", "silent"), ("n3", "no_tally")
    ]  # fmt: skip


REFUSALS = {
    Refusal("", "bad_header"): 2, Refusal("kubeweir.c1.sink.file", "sink_refused"): 4,
    Refusal("kubeweir.flows", "refused"): 3, Refusal("kubeweir.flows.team-a", "refused"): 1,
}  # fmt: skip


def report(*records: TallyRecord) -> Report:
    nodes = look(*records)
    return Report(START, NOW, nodes, [one for node in nodes for one in node.problems], refusals=REFUSALS)


def test_the_report_says_in_its_last_line_whether_all_is_accounted_for() -> None:
    good, bad = report(record()), report(record("n1", "r1"), record("n2", "r2", done_written=463))
    assert [*as_text(good)][-1] == "All decisions are accounted for."
    lines = [*as_text(bad)]
    assert lines[-1] == "Not all is accounted for: 1 problem, see above."
    assert (
        "  n2: flows: nowhere: 7 records were made, and Kafka has neither them nor dead letters in their place" in lines
    )
    assert (good.adds_up, bad.adds_up) == (True, False)
    part = replace(good, unknown=["dead letters: no right"])
    assert [*as_text(part)][-1] == "All decisions of these nodes are accounted for. Not all is known, see above."
    assert not Report(START, NOW, [], []).adds_up, "nothing is known"


def test_what_waits_in_the_spool_is_a_term_of_its_own() -> None:
    waits: dict[str, Any] = {"spool_next": 400, "spool_published": 380, "spool_appended": 450, "spool_waiting": 50}
    [node] = look(record(**waits))
    assert node.problems == []
    assert (node.sums["spool"].value, node.sums["spool"].parts["waiting"]) == (450, 50)
    assert "  n1: cut by logging_allowed 200, cut by limit_denied 30, lost by ring_full 50" in "\n".join(
        as_text(report(record(**waits)))
    )
    assert any(line.endswith("in the spool 50") for line in as_text(report(record(**waits))))
    assert problems(record(**{**waits, "spool_waiting": 40})) == [("n1", "spool", "nowhere", 10)]


def test_every_refusal_is_counted_by_who_has_refused() -> None:
    made = replace(
        report(record()), positions=[GroupPosition("kubeweir.c1.sink.file", "kubeweir.flows", 90, 10)],
        failed_routes={"kubeweir.team-b": Failure(NOW, "no right")},
        workers=[SeenWorker("w2", "", NOW), SeenWorker("w1", "0.2.0", NOW), SeenWorker("w3", "0.2.0", NOW)],
        lost_ends={LostReports("c1", "n1", "ring_full"): 1234},
    )  # fmt: skip
    found = as_json(made)
    assert [one["refused"] for one in found["consumers"]] == [4]
    assert [(one["output"], one["reason"], one["count"]) for one in found["refusals"]] == [
        ("kubeweir.c1.sink.file", "sink_refused", 4), ("kubeweir.flows", "refused", 3),
        ("kubeweir.flows.team-a", "refused", 1),
    ]  # fmt: skip
    assert found["dead_letters"] == {"bad_header": 2, "sink_refused": 4, "refused": 4}
    assert found["failed_routes"] == [{"topic": "kubeweir.team-b", "error": "no right", "at": "1970-01-01T02:46:40Z"}]
    assert {one["worker"]: one["version"] for one in found["workers"]} == {"w2": "", "w1": "0.2.0", "w3": "0.2.0"}
    assert found["lost_ends"] == [{"cluster": "c1", "node": "n1", "reason": "ring_full", "reports": 1234}]
    assert made.adds_up == report(record()).adds_up, "the sums are about verdicts"
    lines = [*as_text(made)]
    for expected in (
        "  n1: 1,234 by ring_full",
        "  an earlier version: w2", "  0.2.0: w1, w3", "  refused: 1, refused by kubeweir.flows.team-a",
        "  kubeweir.team-b: no right (at 1970-01-01T02:46:40Z)",
    ):  # fmt: skip
        assert expected in lines
    assert any(line.split() == ["kubeweir.c1.sink.file", "kubeweir.flows", "90", "10", "4"] for line in lines)


def test_the_json_has_every_term() -> None:
    state = NodeState(version="1.0", watch={"pods": 3.0}, suspicious={"NetworkPolicy a/b": "True"})
    found = as_json(report(record(state=state)))
    msgspec.json.encode(found)
    assert found["adds_up"] is True
    [node] = found["nodes"]
    assert node["stages"]["kernel"] == {
        "total": [1000, 1000], "written": 700, "waiting": 20, "cut:logging_allowed": 200, "cut:limit_denied": 30,
        "lost:ring_full": 50, "unaccounted": 0,
    }  # fmt: skip
    assert node["state"]["suspicious"] == {"NetworkPolicy a/b": "True"}


def test_suspicious_annotations_are_listed_once() -> None:
    state = NodeState(suspicious={"NetworkPolicy a/b": "True", "namespace c": "yes"})
    lines = [*as_text(report(record("n1", "r1", state=state), record("n2", "r2", state=state)))]
    assert lines.count("  NetworkPolicy a/b: 'True'") == lines.count("  namespace c: 'yes'") == 1


def test_only_tallies_are_taken_from_the_status_topic() -> None:
    assert decode_tally(msgspec.json.encode({**msgspec.to_builtins(record()), "type": "tally"})) == record()
    for value in (b"{}", b'{"type":"heartbeat"}', b"\xff"):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            decode_tally(value)
