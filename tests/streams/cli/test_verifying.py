"""The account of `weir verify`: what it counts, and that equal records are asked once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from enrich.history.moments import moment
from enrich.history.record_question import Judged, Outcome, Question
from enrich.history.verifying import Verifier
from enrich.wire.topics import topics
from streams.cli import verifying
from streams.cli.verify_command import exit_code
from streams.cli.verify_shares import Request, Share, account_for, split
from streams.cli.verify_text import as_json, lines
from streams.cli.verifying import Account, Sums
from streams.kafka.records import Record
from tests.enrich.history.flows_of_worlds import timestamp
from tests.enrich.history.journals import CLUSTER, at
from tests.enrich.history.test_verifying import BASE, DENIED, PODS, WINDOW, verifier_of
from tests.streams.observing.test_observe import FakeTopic

REQUEST = Request({}, topics("weir", 3), CLUSTER, WINDOW, 0, frozenset(), None)


class Counting(Verifier):
    """Counts how often it is asked."""

    asked = 0

    def answer(self, question: Question, at_ns: int, last_ns: int = 0, ring: str = "") -> Judged:
        self.asked += 1
        return super().answer(question, at_ns, last_ns, ring)


def record(seconds: float, number: int = 1, **facts: Any) -> bytes:
    when = timestamp(seconds)
    made = msgspec.structs.replace(DENIED, timestamp=when, last_timestamp=when, id=f"ring-{number}")
    return msgspec.json.encode(msgspec.structs.replace(made, **facts))


def account(verifier: Verifier | None = None, *namespaces: str) -> Account:
    return Account(verifier or verifier_of(BASE, PODS), CLUSTER, WINDOW, frozenset(namespaces))


def sums_of(values: Iterable[bytes], *namespaces: str) -> Sums:
    made = account(None, *namespaces)
    made.add(values)
    return made.finish()


def test_equal_records_are_asked_once_for_each_time_without_a_change() -> None:
    verifier = verifier_of(BASE, PODS)
    verifier.__class__ = Counting
    made = account(verifier)
    made.add(record(seconds, number) for number, seconds in enumerate([*range(100, 900), *range(1100, 2800)]))
    sums = made.finish()
    assert sums.outcomes == {Outcome.AGREES: 800, Outcome.DISAGREES: 1700}
    assert isinstance(verifier, Counting)
    assert verifier.asked == 2 + 1700, "what disagrees is judged by itself, with the time of its last packet"
    assert (sums.read, sums.combinations) == (2500, 1)


def test_a_record_that_disagrees_is_found_among_many() -> None:
    forged = record(500, 777, disposition="allow", reason="no_policy", isolated_by=())
    sums = sums_of([*(record(500, number) for number in range(50)), forged])
    (found,) = sums.findings.values()
    assert (found.records, found.examples, found.text) == (
        1, ["ring-777"], "the policies of its time: deny, default deny (shop/deny)",
    )  # fmt: skip
    assert exit_code(sums, strict=False) == 1
    text = "\n".join(line for _, line in lines(sums, 10))
    assert "shop/web -> shop/db  tcp/5432  ingress  1 records" in text
    assert "recorded: allow, no policy" in text
    made = json.loads(json.dumps(as_json(sums, WINDOW, ["x"])))
    assert made["outcomes"] == {
        "agrees": 50, "agrees_late": 0, "disagrees": 1, "cannot_say": 0, "not_judged": 0,
    }  # fmt: skip
    assert made["findings"][0]["recorded"]["verdict"] == "allow"


def test_what_is_not_asked_about_is_counted_apart() -> None:
    values = [
        record(500), record(-5), record(3001), record(500, cluster="c2"), b"{}", b"", record(500, timestamp="x"),
        record(500).replace(b'":', b'": '),
    ]  # fmt: skip
    sums = sums_of(values)
    assert (sums.read, sums.outside, sums.others, sums.unreadable) == (8, 2, 1, 3)
    assert sums.outcomes == {Outcome.AGREES: 2}, "one of them is spelled otherwise"
    assert exit_code(sums, strict=False) == 0
    assert exit_code(sums, strict=True) == 3
    other = sums_of([record(500)], "data")
    assert (other.others, exit_code(other, strict=False)) == (1, 3)


def test_a_record_of_a_longer_time_agrees_with_what_was_in_force_in_it() -> None:
    """It counts packets of some minutes, and the policy that decided was changed in between."""
    allowed = record(600, disposition="allow", reason="no_policy", isolated_by=(), last_timestamp=timestamp(1100))
    from_web = DENIED.isolated_by[0]
    late = record(600, disposition="allow", reason="policy", policies=(from_web,), isolated_by=(),
                  last_timestamp=timestamp(1100))  # fmt: skip
    sums = sums_of([late, allowed])
    assert sums.outcomes == {Outcome.LATE: 1, Outcome.DISAGREES: 1}


def test_texts_are_forgotten_and_their_counts_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "MAX_BYTES", 10_000)
    monkeypatch.setattr(verifying, "MAX_FINDINGS", 3)
    made = account()
    made.add(
        record(500, node_name=f"n{number}", disposition="allow" if number % 2 else "deny") for number in range(100)
    )
    assert len(made._texts) < 10
    sums = made.finish()
    assert sums.outcomes == {Outcome.AGREES: 50, Outcome.DISAGREES: 50}
    assert (len(sums.findings), sums.unlisted, sums.combinations) == (3, 47, 100)


def test_why_it_cannot_be_said_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "MAX_REASONS", 2)
    src = DENIED.src
    values = [
        record(500, src=msgspec.structs.replace(src, pod_name=f"x{number}", pod_uid=f"x{number}", workload_name="x"))
        for number in range(5)
    ]
    sums = sums_of([*values, record(500)])
    assert sums.reasons.total() == 5
    assert len(sums.reasons) == 3
    assert sums.reasons["further reasons"] == 3
    assert (exit_code(sums, strict=False), exit_code(sums, strict=True)) == (0, 3)


def test_times_that_cannot_be_read_are_counted_and_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "MAX_BYTES", 20_000)
    made = account()
    for number in range(500):
        made.add([record(500, timestamp=f"{timestamp(500)[:19]}.{number:08}xZ")])
        assert made._bytes < 30_000
    sums = made.finish()
    assert sums.reasons == {"its time cannot be read": 500}


def test_what_stands_in_the_place_of_a_time_takes_no_room() -> None:
    """It is 29 bytes of anything, and may be later than all that is text."""
    made = account()
    for good in (record(500), record(500, cluster="c2")):
        for place in (b"~" * 29, "ÿ".encode() * 14 + b"~", b"~" * 29):
            made.add([_with_time(good, place)])
    assert len(made._others.spans) == 1
    assert [len(one.spans) for one in made._classes.values()] == [2]
    sums = made.finish()
    assert (sums.read, sums.others, sums.outside) == (6, 3, 3)


def test_a_record_that_cannot_be_read_says_nothing_of_those_like_it() -> None:
    good = record(500, disposition="allow", reason="no_policy", isolated_by=())
    sums = sums_of([_with_time(good, b"\xff" * 29), _with_time(good, b"\n" * 29), good])
    assert (sums.unreadable, sums.outcomes) == (2, {Outcome.DISAGREES: 1})


def _with_time(value: bytes, time: bytes) -> bytes:
    before, key, rest = value.partition(b',"timestamp":"')
    return before + key + time + rest[29:]


def test_names_of_any_length_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "MAX_FINDINGS_BYTES", 100_000)
    long = "x" * 10_000
    src = msgspec.structs.replace(DENIED.src, pod_name=long, pod_uid=long, workload_name=long)
    sums = sums_of(
        [record(500, src=src), *(record(500, node_name=f"{long}{number}", reason="policy") for number in range(20))]
    )
    assert sums.outcomes == {Outcome.CANNOT_SAY: 1, Outcome.DISAGREES: 20}
    assert [len(text) for text in sums.reasons] == [300]
    assert (len(sums.findings), sums.unlisted) == (9, 11)


def test_a_partition_whose_records_are_no_longer_kept_is_noted() -> None:
    share = Share({0: 0, 1: 7, 2: 9}, {0: 2, 1: 9, 2: 9}, frozenset({1, 2}))
    found = account_for(Plain({0: 2, 1: 9, 2: 9}), REQUEST, share, account(), print)
    assert (found.sums.read, found.sums.unreadable) == (4, 4)
    assert found.notes == [
        f"partition 1 begins at {moment(at(5))}: earlier records are no longer kept",
        "partition 2 is empty: the records that it had are no longer kept",
    ]


class Plain(FakeTopic):
    """Records that are none, all of one time."""

    def _record(self, partition: int, offset: int) -> Record:
        return Record(partition, offset, b"", b"x", at(5) // 1_000_000)


class Forged(FakeTopic):
    """One partition: many records in a row that claim to be of tomorrow, then one of the window."""

    def __init__(self) -> None:
        super().__init__({0: 10_001})

    def take(self, most: int, _wait_s: float) -> list[Record]:
        taken, self.queue = self.queue[:most], self.queue[most:]
        return taken

    def _record(self, partition: int, offset: int) -> Record:
        if offset < 10_000:
            return Record(partition, offset, b"", b"{}", at(90_000) // 1_000_000)
        value = record(500, disposition="allow", reason="no_policy", isolated_by=())
        return Record(partition, offset, b"", value, at(500) // 1_000_000)


def test_forged_times_hide_nothing_unless_the_window_ends_before_now() -> None:
    share = Share({0: 0}, {0: 10_001})
    found = account_for(Forged(), REQUEST, share, account(), print)
    assert (found.sums.unreadable, found.sums.outcomes) == (10_000, {Outcome.DISAGREES: 1})
    assert found.left_early == 0
    found = account_for(Forged(), REQUEST._replace(until_ms=at(3600) // 1_000_000), share, account(), print)
    assert not found.sums.judged
    assert found.left_early == 1


def test_the_records_are_split_into_shares_of_one_size() -> None:
    whole = Share(dict.fromkeys(range(6), 10), {0: 110, 1: 60, 2: 60, 3: 10, 4: 15, 5: 15}, frozenset({1}))
    shares = split(whole, 2)
    assert [sorted(one.ends) for one in shares] == [[0, 3, 4], [1, 2, 5]]
    assert [one.records for one in shares] == [105, 105]
    assert [one.cut for one in shares] == [frozenset(), {1}]
    assert [one.records for one in split(whole, 9)] == [100, 50, 50, 5, 5]
    assert [one.records for one in split(Share({0: 1}, {0: 1}), 2)] == [0]


def test_the_counts_of_two_processes_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = [record(500, number, disposition="allow", reason="no_policy", isolated_by=()) for number in range(6)]
    unknown = [record(500, reason=f"what{number}") for number in range(2)]
    values = [
        *forged,
        *unknown,
        record(500),
        b"{}",
        record(-5),
        record(500, cluster="c2"),
        record(500, reason="spoofed"),
    ]
    whole, part = sums_of(values), sums_of(values[::2])
    part.add(sums_of(values[1::2]))
    (finding,) = part.findings.values()
    assert sorted(finding.examples) == ["ring-0", "ring-2", "ring-4"], "the first ones are kept"
    for sums in (whole, part):
        finding = next(iter(sums.findings.values()))
        assert finding.records == 6
        finding.examples.clear()
    part.combinations = whole.combinations
    assert part == whole
    monkeypatch.setattr(verifying, "MAX_FINDINGS", 1)
    part.add(sums_of([record(500, disposition="allow", reason="policy")]))
    assert (len(part.findings), part.unlisted) == (1, 1)
