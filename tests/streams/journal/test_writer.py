"""The writer of the journal: what it writes of what is observed, when, and after aborted transactions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from enrich.history.timeline import MAX_BACK_NS, Scope, Timeline
from enrich.index.cluster import Cluster
from enrich.model import Name, Namespace, Node, Pod
from enrich.sources.versions import UNKNOWN, Version
from enrich.wire.journal import GAP, HEARTBEAT, REPEAT_NS, JournalEntry, decode_entry, encode_entry, raw_state
from streams.journal.observed import Key, ObservedStates
from streams.journal.profiles import LINGER_NS, Profiles
from streams.journal.writer import HEARTBEAT_NS, MAX_SILENCE_NS, JournalWriter, Observation
from streams.journal.written import Journal, read_states
from streams.kafka.connection import ReadError
from streams.kafka.exactly_once import TransactionAbortedError, Write
from streams.kafka.records import Record

S = 1_000_000_000


class Log:
    """The topic, and the transactions that write it."""

    def __init__(self) -> None:
        self.entries: list[JournalEntry] = []
        self.aborts = 0
        self.is_lost = False
        """Whether an aborted transaction was committed all the same."""
        self.foreign: list[Record] = []

    def take(self, max_records: int, wait_s: float) -> list[Record]:
        del max_records, wait_s
        found, self.foreign = self.foreign, []
        return found

    def commit(self, writes: Iterable[Write]) -> None:
        found = [decode_entry(one.value or b"", one.key or b"") for one in writes]
        if self.aborts and found:
            self.aborts -= 1
            if self.is_lost:
                self.entries += found
            raise TransactionAbortedError("no")
        self.entries += found

    def journal(self) -> Journal:
        """Return the last states, as a new writer reads them."""
        made = Journal("c1")
        for entry in self.entries:
            made.apply(entry)
        return made


class Ground:
    """A writer, its source and its clock."""

    def __init__(self, log: Log | None = None) -> None:
        self.log = log or Log()
        self.now = max([1000 * S, *(one.seen_ns + S for one in self.log.entries)])
        self.synced_until: int | None = None
        self.bad: list[str] = []
        self.refused = 0
        self.cluster = Cluster()
        self.profiles = Profiles(self.cluster, (), self._refuse)
        self.states = ObservedStates(self.profiles, self._refuse, lambda: self.now)
        self.is_synced = True
        observation = Observation(
            self.states, self.profiles, lambda: self.is_synced, lambda: self.synced_until or self.now
        )
        self.writer = JournalWriter(
            "t", observation, self.log.journal, lambda _, why: self.bad.append(why), now_ns=lambda: self.now
        )

    def _refuse(self) -> None:
        self.refused += 1

    def begin(self) -> None:
        """Get the partition."""
        self.writer.on_assigned([("t", 0)])

    def step(self, later_s: float = 1) -> list[JournalEntry]:
        """Let time pass and return what is written then."""
        self.now += int(later_s * S)
        before = len(self.log.entries)
        self.writer.step(self.log)
        return self.log.entries[before:]

    def step_in_vain(self) -> None:
        """Take a step whose transaction is aborted, and get the partition again."""
        self.now += S
        with pytest.raises(TransactionAbortedError):
            self.writer.step(self.log)
        self.begin()

    def set(self, team: str, version: str = "", generation: int = 0) -> None:
        """Observe a version of the namespace shop."""
        self.now += 1000
        self.states.set(Namespace("shop", "u1", {"team": team}), Version(version, generation, "kubectl"))


def texts(entries: Iterable[JournalEntry]) -> list[str]:
    """Return entries in words."""
    found = []
    for one in entries:
        state = bytes(one.object).decode()
        team = state.partition('"team":"')[2].partition('"')[0]
        found.append(one.kind if one.kind in (GAP, HEARTBEAT) else f"{one.name} {'gone' if one.gone else team}")
    return found


def begun(log: Log | None = None) -> Ground:
    """Return a writer that has begun with the namespace shop of team a."""
    ground = Ground(log)
    ground.set("a")
    ground.begin()
    ground.step()
    return ground


def test_a_first_writer_says_that_nothing_is_known_before() -> None:
    ground = begun()
    gap, first = ground.log.entries
    assert (gap.kind, gap.since_ns) == (GAP, 0)
    assert (first.name, first.changed_by, gap.seen_ns) == ("shop", "kubectl", first.seen_ns)


def test_each_version_between_two_steps_is_written_at_its_time() -> None:
    ground = begun()
    ground.set("b", "5", 2)
    at_b = ground.now
    ground.set("c")
    ground.set("c", "7")
    ground.states.deleted(Namespace("shop", "", {}), Version("8"))
    found = ground.step()
    assert texts(found) == ["shop b", "shop c", "shop gone"]
    assert (found[0].seen_ns, found[0].resource_version, found[0].generation) == (at_b, "5", 2)
    assert found[2].resource_version == "8"


def test_a_version_that_changes_nothing_of_the_state_is_not_written() -> None:
    ground = begun()
    ground.set("a", "9")
    assert ground.step() == []
    ground.set("a", "10", 3)
    assert texts(ground.step()) == ["shop a"], "the generation is another one"
    ground.states.listed(Namespace, [(Namespace("shop", "u1", {"team": "a"}), UNKNOWN)])
    assert ground.step() == [], "a list without versions says nothing new"


def test_the_next_writer_writes_a_gap_and_only_what_differs() -> None:
    log = begun().log
    same = begun(log)
    assert texts(log.entries[2:]) == [GAP]
    assert log.entries[2].since_ns == log.entries[1].seen_ns
    same.set("b")
    same.step()
    other = Ground(log)
    other.states.set(Node("n1", "u2", {}), UNKNOWN)
    other.begin()
    assert texts(other.step()) == [GAP, "shop gone", "n1 "]


def test_nothing_is_written_before_the_source_has_listed_everything() -> None:
    ground = Ground(begun().log)
    ground.is_synced = False
    ground.begin()
    assert ground.step() == []
    ground.is_synced = True
    ground.set("a")
    assert texts(ground.step()) == [GAP], "the namespace is not gone"


def test_a_worker_without_the_partition_writes_nothing() -> None:
    ground = Ground()
    ground.set("a")
    assert ground.step() == []
    ground.begin()
    ground.step()
    ground.writer.on_assigned([])
    ground.set("b")
    assert ground.step() == []
    assert ground.writer.complete_ns is None


@pytest.mark.parametrize("is_lost", [False, True])
def test_after_an_aborted_transaction_it_goes_on_without_a_gap(is_lost: bool) -> None:
    ground = begun()
    for team in "bcb":
        ground.set(team)
    ground.log.aborts, ground.log.is_lost = 1, is_lost
    ground.step_in_vain()
    ground.set("d")
    ground.step()
    assert texts(ground.log.entries[2:]) == ["shop b", "shop c", "shop b", "shop d"]


def test_after_an_aborted_transaction_and_another_writer_there_is_a_gap() -> None:
    ground = begun()
    ground.set("b")
    ground.log.aborts = 1
    ground.now += S
    with pytest.raises(TransactionAbortedError):
        ground.writer.step(ground.log)
    other = begun(ground.log)
    other.set("b")
    other.step()
    ground.now = other.now
    ground.begin()
    assert texts(ground.step()) == [GAP]
    assert texts(ground.log.entries).count("shop b") == 1


def test_a_first_outcome_that_is_aborted_is_written_again() -> None:
    ground = Ground()
    ground.set("a")
    ground.log.aborts = 1
    ground.begin()
    ground.step_in_vain()
    assert texts(ground.step()) == [GAP, "shop a"]


def test_a_silent_source_makes_a_gap() -> None:
    ground = begun()
    ground.synced_until = ground.now
    assert ground.step(MAX_SILENCE_NS / S + 1) == []
    ground.set("b")
    assert texts(ground.step()) == ["shop b"], "it is seen, late"
    ground.synced_until = None
    (gap,) = ground.step()
    assert (gap.kind, gap.seen_ns) == (GAP, ground.now)
    assert gap.since_ns < ground.now - MAX_SILENCE_NS
    assert ground.step() == []


@pytest.mark.parametrize("aborts", [0, 1])
def test_a_source_that_stays_silent_makes_gaps_one_after_the_other(aborts: int) -> None:
    ground = begun()
    ground.synced_until = silent_ns = ground.now
    ground.log.aborts = aborts
    found: list[JournalEntry] = []
    for number in range(60):
        ground.set(f"t{number}")  # of another kind than the silent one
        try:
            found += ground.step(10)
        except TransactionAbortedError:
            ground.begin()
    ground.synced_until = None
    found += ground.step(30)
    gaps = [one for one in found if one.kind == GAP]
    assert [gaps[0].since_ns, *(one.seen_ns for one in gaps)] == [
        silent_ns,
        *(one.since_ns for one in gaps[1:]),
        ground.now,
    ]
    newest_ns = 0
    for one in found:
        assert one.kind != GAP or one.since_ns >= newest_ns - MAX_BACK_NS / 2
        assert one.seen_ns > newest_ns
        newest_ns = one.seen_ns


def test_a_quiet_cluster_has_heartbeats_and_the_end_has_one_too() -> None:
    ground = begun()
    written = [len(ground.step(10)) for _ in range(int(HEARTBEAT_NS / S / 10) + 1)]
    assert sum(written) == 1
    assert ground.log.entries[-1].kind == HEARTBEAT
    ground.step(5)
    ground.writer.finish(ground.log)
    assert (ground.log.entries[-1].kind, ground.log.entries[-1].seen_ns) == (HEARTBEAT, ground.now)


def test_a_state_is_repeated_before_retention_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.journal.writer._REPEATS_EVERY_S", 0)
    ground = begun()
    first = ground.log.entries[1]
    ground.step(REPEAT_NS / S)
    (repeat,) = [one for one in ground.step() if one.since_ns and one.kind == "Namespace"]
    assert (repeat.object, repeat.since_ns) == (first.object, first.seen_ns)
    ground.step(REPEAT_NS / S)
    (again,) = [one for one in ground.step() if one.since_ns and one.kind == "Namespace"]
    assert again.since_ns == first.seen_ns


def test_too_much_at_once_is_a_gap_with_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.journal.observed._MAX_QUEUED", 3)
    ground = begun()
    for number in range(6):
        ground.set(f"t{number}")
    assert texts(ground.step()) == [GAP, "shop t5"]


def test_a_record_that_is_no_entry_is_reported() -> None:
    ground = begun()
    ground.log.foreign = [Record(0, 9, b"k", b"{", 0), Record(0, 10, b"", b"", 0, unread="damaged")]
    ground.step()
    assert len(ground.bad) == 2
    assert ground.bad[1] == "damaged"


def records_of(*entries: JournalEntry, first: int = 100) -> list[Record]:
    """Return entries as the topic has them."""
    return [Record(0, first + place, one.key, encode_entry(one), 0) for place, one in enumerate(entries)]


def foreign(ground: Ground, team: str, later_s: float = 0) -> JournalEntry:
    """Return an entry of the namespace shop that somebody else writes."""
    made = Namespace("shop", "u1", {"team": team})
    seen_ns = ground.now + int(later_s * S)
    return JournalEntry(cluster="c1", kind="Namespace", name="shop", uid="u1", seen_ns=seen_ns, object=raw_state(made))


def test_what_the_writer_reads_back_is_its_own() -> None:
    ground = begun()
    ground.set("b")
    ground.step()
    ground.log.foreign = records_of(*ground.log.entries)
    assert ground.step() == []
    assert ground.bad == []


@pytest.mark.parametrize("later_s", [-500, 0, 200])
def test_an_entry_of_somebody_else_is_reported_and_made_up_for(later_s: float) -> None:
    ground = begun()
    lie = foreign(ground, "evil", later_s)
    ground.log.entries.append(lie)
    ground.log.foreign = records_of(lie)
    last_ns = ground.log.entries[1].seen_ns
    gap, shop = ground.step()
    assert (gap.kind, gap.since_ns) == (GAP, last_ns)
    assert texts([shop]) == ["shop a"]
    assert ground.bad == ["this worker writes the journal, and has not written this entry"]
    assert ground.step() == []
    # A reader never takes the lie for true.
    made = Timeline("c1", ground.log.entries)
    for at_ns in range(last_ns, ground.now + 300 * S, S // 4):
        view = made.view_at(at_ns)
        assert made.unknown(Scope("shop"), at_ns, at_ns) or view.namespaces[Name("", "shop")].labels == {"team": "a"}
    assert made.unknown(Scope("shop"), ground.now + 300 * S, ground.now + 300 * S) == ""


def test_a_writer_that_was_frozen_does_not_report_the_next_one() -> None:
    ground = begun()
    ground.log.foreign = records_of(foreign(ground, "b"))
    ground.log.aborts = 1
    ground.step_in_vain()
    ground.log.foreign = []
    ground.step()
    assert ground.bad == []


def test_an_object_that_somebody_else_invents_is_gone_again() -> None:
    ground = begun()
    ground.log.foreign = records_of(msgspec.structs.replace(foreign(ground, "x"), name="evil", object=raw_state(
        Namespace("evil", "u1", {})
    )))  # fmt: skip
    assert texts(ground.step()) == [GAP, "evil gone"]


def test_what_was_written_before_this_worker_or_of_another_cluster_is_not_made_up_for() -> None:
    ground = begun()
    assert ground.writer._journal is not None
    ground.writer._journal.end_offset = 100
    other = msgspec.structs.replace(foreign(ground, "x"), cluster="c2")
    ground.log.foreign = [*records_of(foreign(ground, "b")), *records_of(other, first=101)]
    assert ground.step() == []
    assert ground.bad == []


def test_an_object_whose_record_is_no_entry_is_written_again() -> None:
    ground = begun()
    bad = [Record(0, 100, f"c1/{key}".encode(), b"{", 0) for key in ("Namespace//shop", "Node//none", "X//y", "")]
    ground.log.foreign = bad
    found = ground.step()
    assert sorted(texts(found)) == ["none gone", "shop a"]
    assert len(ground.bad) == 4
    assert ground.step() == []
    ground.log.foreign = bad[:1]
    ground.log.aborts = 1
    ground.step_in_vain()
    ground.log.foreign = []
    assert ground.step() == [], "nothing was lost: the topic has no such record here"


def test_a_journal_that_is_larger_than_any_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.journal.written._MAX_SIZE", 100_000)
    ground = begun()
    many = [
        msgspec.structs.replace(
            foreign(ground, "x"), name=f"n{number}", object=raw_state(Namespace(f"n{number}", "u1", {}))
        )
        for number in range(200)
    ]
    again = [foreign(ground, str(number)) for number in range(200)]
    assert read_states("c1", 1, lambda _: records_of(*again), lambda: None).states
    with pytest.raises(ReadError, match="somebody else writes to its topic"):
        read_states("c1", 1, lambda _: records_of(*many), lambda: None)


def test_a_new_writer_knows_what_readers_do_not() -> None:
    ground = begun()
    records = [*records_of(*ground.log.entries), Record(0, 900, b"c1/Namespace//shop", b"{", 0)]
    found = read_states("c1", 1, lambda _: records, lambda: None)
    assert found.doubted == {Key("Namespace", "", "shop")}
    assert found.end_offset == 900
    ground.writer._read_journal = lambda: found
    ground.begin()
    assert texts(ground.step()) == ["shop a"], "the same worker goes on without a gap"


def test_a_state_outside_the_bounds_is_counted_and_the_rest_is_written() -> None:
    ground = begun()
    ground.states.set(Node("n1", "u2", {}, ("not an address",)), UNKNOWN)
    ground.set("b")
    refused, shop = ground.step()
    assert (refused.kind, refused.name, refused.gone, bytes(refused.object)) == ("Node", "n1", False, b"null")
    assert "does not appear to be an IPv4 or IPv6 address" in refused.refused
    assert shop.name == "shop"
    assert ground.refused == 1


def test_a_refused_state_is_written_once_and_ends_with_one_that_fits() -> None:
    ground = begun()
    ground.states.set(Namespace("shop", "u1", {"not a key!": "1"}), Version("2", 0, "kubectl"))
    assert [bool(one.refused) for one in ground.step()] == [True]
    ground.states.set(Namespace("shop", "u1", {"not a key!": "2"}), Version("3", 0, "kubectl"))
    ground.states.listed(Namespace, [(Namespace("shop", "u1", {"not a key!": "2"}), UNKNOWN)])
    assert ground.step() == [], "it is not known either"
    other = Ground(ground.log)
    other.states.set(Namespace("shop", "u1", {"not a key!": "2"}), UNKNOWN)
    other.begin()
    assert texts(other.step()) == [GAP], "a new writer knows that it is written"
    other.set("a")
    assert texts(other.step()) == ["shop a"]
    other.states.set(Namespace("shop", "u1", {"not a key!": "2"}), UNKNOWN)
    other.step()
    other.states.deleted(Namespace("shop", "u1", {}), Version("8"))
    assert texts(other.step()) == ["shop gone"]


def test_a_refused_state_is_repeated_and_its_end_is_found_by_the_next_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.journal.writer._REPEATS_EVERY_S", 0)
    ground = begun()
    ground.states.set(Node("n1", "u2", {}, ("not an address",)), UNKNOWN)
    (first,) = ground.step()
    (repeat,) = [one for one in ground.step(REPEAT_NS / S) if one.kind == "Node"]
    assert (repeat.refused, repeat.since_ns) == (first.refused, first.seen_ns)
    other = begun(ground.log)
    assert [(one.name, one.gone) for one in other.log.entries[-1:]] == [("n1", True)]


def test_an_object_that_no_entry_can_name_has_a_name_that_stands_for_it() -> None:
    ground = begun()
    odd = Namespace("Not A Name", "u2", {})
    ground.states.set(odd, UNKNOWN)
    (entry,) = ground.step()
    assert entry.name.startswith("unnamed-")
    assert entry.refused
    ground.states.deleted(odd, UNKNOWN)
    assert texts(ground.step()) == [f"{entry.name} gone"]


def test_a_profile_is_written_once_and_gone_when_no_pod_had_it_for_long() -> None:
    ground = begun()
    pods = [Pod("shop", f"web-{number}", f"p{number}", {"app": "web"}) for number in range(2)]
    for pod in pods:
        ground.states.set(pod, UNKNOWN)
    (profile,) = ground.step()
    assert (profile.kind, profile.namespace) == ("Profile", "shop")
    ground.states.deleted(pods[0], UNKNOWN)
    assert texts(ground.step(2 * LINGER_NS / S)) == [GAP], "another pod has it"
    ground.states.deleted(pods[1], UNKNOWN)
    ground.step()
    gone = [one for one in ground.step(LINGER_NS / S) if one.kind == "Profile"]
    assert [(one.name, one.gone) for one in gone] == [(profile.name, True)]


def test_a_new_writer_refuses_an_entry_that_was_ahead_of_its_time() -> None:
    ground = begun()
    early = foreign(ground, "x")
    records = [*records_of(*ground.log.entries), Record(0, 900, early.key, encode_entry(early), 1)]
    bad: list[int] = []
    found = read_states("c1", 1, lambda _: records, lambda: bad.append(1))
    assert bad == [1]
    assert found.doubted == {Key("Namespace", "", "shop")}, "readers do not know it, so it is written again"
    assert found.last_ns == ground.log.entries[-1].seen_ns


def test_a_journal_that_cannot_be_read_aborts() -> None:
    ground = Ground()

    def fail() -> Journal:
        raise ReadError("no answer")

    ground.writer._read_journal = fail
    with pytest.raises(TransactionAbortedError, match="no answer"):
        ground.begin()


def test_states_are_read_from_as_early_as_their_last_writer_needs() -> None:
    log = begun().log
    entries = [(one.seen_ns // 1_000_000, Record(0, 0, one.key, encode_entry(one), 0)) for one in log.entries]
    asked: list[int] = []

    def read(since_ms: int) -> list[Record]:
        asked.append(since_ms)
        return [record for at, record in entries if at >= since_ms] + [Record(0, 1, b"", b"{", 0)]

    bad: list[int] = []
    far = entries[-1][0] + 3 * REPEAT_NS // 1_000_000
    found = read_states("c1", far, read, lambda: bad.append(1))
    assert len(asked) == 2, "another cluster wrote for longer"
    assert asked[1] == 0
    assert list(found.states) == [Key("Namespace", "", "shop")]
    assert read_states("c2", far, read, lambda: None).states == {}
    assert read_states("c1", -1, read, lambda: None).last_ns == log.entries[-1].seen_ns
