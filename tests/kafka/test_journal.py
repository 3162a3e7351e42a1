"""The role `journal` against a real Kafka: one writer, no version twice, gaps, whenever something is killed."""

from __future__ import annotations

import itertools
import random
import signal
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from enrich.history.timeline import Scope, Timeline
from enrich.label_selector import Selector
from enrich.model import NetworkPolicy
from enrich.wire.journal import GAP, HEARTBEAT, PROFILE, JournalEntry, Profile, encode_entry, raw_state, state_of
from enrich.wire.topics import topics
from streams.journal.reading import read_journal
from streams.kafka.connection import NoTopicError
from tests.kafka.site import Service, Site, until
from tests.waiting import freeze

pytestmark = pytest.mark.kafka
_POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{{ports: [{{port: {port}}}]}}]}}
"""
_POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}
spec: {{nodeName: n1, containers: [{{name: main, image: none}}]}}
"""
ALL = Selector()
FIRST = {"Namespace//shop", "Namespace//kube-system", "Node//n1"}


class Folder:
    """The manifests of a site, and its journal."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._folder = site.folder / "manifests"

    def policy(self, port: int, name: str = "db") -> None:
        """Make a policy, or change it."""
        self._put(name, _POLICY.format(name=name, port=port))

    def large_policy(self, name: str = "db") -> None:
        """Make a policy whose state does not fit an entry."""
        blocks = ", ".join(f"{{ipBlock: {{cidr: 10.{high}.{low}.0/24}}}}" for high in range(120) for low in range(256))
        rule = f"ports: [{{port: 1}}], from: [{blocks}]"
        self._put(name, _POLICY.format(name=name, port=1).replace("ports: [{port: 1}]", rule))

    def pod(self, name: str, app: str) -> None:
        """Make a pod."""
        self._put(name, _POD.format(name=name, app=app))

    def _put(self, name: str, text: str) -> None:
        # A file that is half written would be one state more.
        hidden = self._folder / f".{name}"
        hidden.write_text(text)
        hidden.rename(self._folder / f"{name}.yaml")

    def delete(self, name: str) -> None:
        """Delete an object."""
        (self._folder / f"{name}.yaml").unlink()

    def entries(self) -> list[JournalEntry]:
        """Return the journal so far."""
        try:
            return list(read_journal(self.site.connection, topics(self.site.prefix, 4), "c1"))
        except NoTopicError:
            return []

    def until_port(self, port: int, name: str = "db") -> list[JournalEntry]:
        """Return the journal once it has a policy with this port."""

        def look() -> list[JournalEntry] | None:
            found = self.entries()
            return found if ports(found, name)[-1:] == [port] else None

        return until(look, f"a policy {name} with port {port}")

    def start(self) -> Service:
        """Start a writer."""
        return self.site.start("journal", "--alone", WEIR_STOP_TIMEOUT="5")


@pytest.fixture
def folder(site: Site) -> Folder:
    """The manifests of a site, and its journal."""
    return Folder(site)


def ports(entries: Sequence[JournalEntry], name: str = "db") -> list[int]:
    """Return the ports of the versions of a policy; 0 where it was deleted."""
    found = []
    for entry in entries:
        if (entry.kind, entry.name) == ("NetworkPolicy", name):
            made = state_of(entry)
            port = made.ingress[0].ports[0].port if isinstance(made, NetworkPolicy) and made.ingress else 0
            assert isinstance(port, int)
            found.append(port)
    return found


def names(entries: Sequence[JournalEntry]) -> set[str]:
    """Return what there are entries of, without profiles, gaps and heartbeats."""
    return {f"{one.kind}/{one.namespace}/{one.name}" for one in entries if one.kind not in (PROFILE, GAP, HEARTBEAT)}


def apps(entries: Sequence[JournalEntry]) -> list[str]:
    """Return the label app of each profile, with a minus sign where it is gone."""
    known: dict[str, str] = {}
    found = []
    for entry in entries:
        if entry.kind == PROFILE:
            made = state_of(entry)
            known[entry.name] = made.labels["app"] if isinstance(made, Profile) else f"-{known[entry.name]}"
            found.append(known[entry.name])
    return found


def check_once(entries: Sequence[JournalEntry]) -> None:
    """No object has the same state twice in a row, and times rise."""
    states: dict[bytes, list[bytes]] = defaultdict(list)
    for entry in entries:
        if entry.kind not in (GAP, HEARTBEAT):
            states[entry.key].append(bytes(entry.object))
    for key, found in states.items():
        assert all(one != after for one, after in itertools.pairwise(found)), key
    times = [entry.seen_ns for entry in entries]
    assert times == sorted(times)


def gaps(entries: Sequence[JournalEntry]) -> list[tuple[int, int]]:
    """Return begin and end of each gap."""
    return [(one.since_ns, one.seen_ns) for one in entries if one.kind == GAP]


def test_each_version_is_written_once_and_ends_are_written(folder: Folder) -> None:
    folder.policy(1)
    service = folder.start()
    entries = folder.until_port(1)
    assert gaps(entries) == [(0, entries[0].seen_ns)], "what was before is not known"
    assert names(entries) == FIRST | {"NetworkPolicy/shop/db"}
    assert sorted(apps(entries)) == ["api", "db", "web"]
    assert until(lambda: service.get("/readyz", "journal")[0] == 200, "the role is ready")
    for port in (2, 3):
        folder.policy(port)
        folder.until_port(port)
    folder.pod("more", "cache")
    folder.delete("db")
    until(lambda: "cache" in apps(folder.entries()), "the profile cache")
    entries = folder.entries()
    assert ports(entries) == [1, 2, 3, 0]
    assert len(gaps(entries)) == 1
    check_once(entries)


def test_a_restart_marks_the_gap_and_writes_only_what_differs(folder: Folder) -> None:
    folder.policy(1)
    folder.policy(1, "other")
    folder.pod("more", "cache")
    service = folder.start()
    before = folder.until_port(1)
    assert service.stop() == 0
    stopped = folder.entries()
    assert stopped[-1].kind == HEARTBEAT
    assert stopped[: len(before)] == before
    folder.policy(2)
    folder.delete("other")
    folder.delete("more")
    folder.pod("new", "queue")
    folder.start()
    entries = folder.until_port(2)
    until(lambda: "queue" in apps_of_new(folder.entries()), "the profile queue")
    added = folder.entries()[len(stopped) :]
    assert added[0].kind == GAP
    assert (added[0].since_ns, added[0].seen_ns) == (stopped[-1].seen_ns, added[1].seen_ns)
    assert names(added) == {"NetworkPolicy/shop/db", "NetworkPolicy/shop/other"}
    assert ports(entries, "other") == [1, 0]
    assert apps(folder.entries())[-2:] in (["-cache", "queue"], ["queue", "-cache"])
    check_once(folder.entries())


def apps_of_new(entries: Sequence[JournalEntry]) -> list[str]:
    """Return the label app of each profile that is new in some entries."""
    return [made.labels["app"] for one in entries if isinstance(made := state_of(one), Profile)]


def test_killed_at_any_moment_it_writes_no_version_twice(folder: Folder) -> None:
    rng = random.Random(7)  # noqa: S311 - not for secrets
    folder.policy(1)
    service = folder.start()
    folder.until_port(1)
    for port in range(2, 10):
        folder.policy(port)
        if port % 3 == 0:
            until(lambda at=port: rng.random() < 0.3 or at in ports(folder.entries()), "some moment")  # type: ignore[misc]  # mypy cannot type a default
            service.process.send_signal(signal.SIGKILL)
            service.process.wait()
            service = folder.start()
    entries = folder.until_port(9)
    check_once(entries)
    found = ports(entries)
    assert found == sorted(set(found))
    assert metric(service, "kubeweir_streams_journal_bad_entries_total") == 0
    assert len(gaps(entries)) >= 2
    assert gaps(entries)[0][0] == 0
    # What was written before a gap is not later than its begin.
    for place, entry in enumerate(entries):
        if entry.kind == GAP and place:
            assert entries[place - 1].seen_ns == entry.since_ns


def test_of_two_writers_one_writes_and_a_frozen_one_is_fenced(folder: Folder) -> None:
    folder.policy(1)
    first = folder.start()
    folder.until_port(1)
    second = folder.start()
    until(lambda: second.get("/readyz", "journal")[0] == 200, "the second is ready")
    folder.policy(2)
    folder.until_port(2)
    frozen = until(lambda: next((one for one in (first, second) if is_writer(one)), None), "a writer")
    other = second if frozen is first else first
    freeze(frozen.process.pid)
    folder.policy(3)
    entries = folder.until_port(3)
    assert until(lambda: is_writer(other), "the other one writes")
    frozen.process.send_signal(signal.SIGCONT)
    folder.policy(4)
    folder.until_port(4)
    until(lambda: not is_writer(frozen), "the frozen one finds that it does not write")
    assert until(lambda: frozen.get("/readyz", "journal")[0] == 200, "it is ready to take over")
    entries = folder.entries()
    assert ports(entries) == [1, 2, 3, 4]
    check_once(entries)
    for one in (frozen, other):
        assert metric(one, "kubeweir_streams_journal_bad_entries_total") == 0, (
            "neither takes the other for somebody else"
        )


def is_writer(service: Service) -> bool:
    """Return whether a worker says that it writes the journal."""
    return metric(service, "kubeweir_streams_journal_writer") == 1


def metric(service: Service, name: str) -> float:
    """Return a metric of the role."""
    for line in service.get("/metrics", "journal")[1].splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return 0.0


def test_a_state_that_does_not_fit_is_written_as_refused_until_one_that_does(folder: Folder) -> None:
    folder.policy(1)
    service = folder.start()
    folder.until_port(1)
    folder.large_policy()

    def refused() -> JournalEntry | None:
        return next((one for one in folder.entries() if one.refused), None)

    found = until(refused, "a refused state")
    assert (found.kind, found.name, found.gone, state_of(found)) == ("NetworkPolicy", "db", False, None)
    assert "more than 900000" in found.refused
    folder.policy(2)
    entries = folder.until_port(2)
    assert ports(entries) == [1, 0, 2]
    made = Timeline("c1", entries)
    shop = Scope("shop")
    assert "the journal does not have the version of NetworkPolicy shop/db" in made.unknown(
        shop, found.seen_ns, found.seen_ns
    )
    assert made.unknown(shop, found.seen_ns - 1, found.seen_ns - 1) == ""
    assert made.unknown(shop, entries[-1].seen_ns, entries[-1].seen_ns) == ""
    assert metric(service, "kubeweir_streams_journal_refused_states_total") >= 1


def test_without_a_journal_no_topic_is_made_and_commands_say_so(folder: Folder) -> None:
    service = folder.site.start_enrich(WEIR_JOURNAL_DAYS="0")
    until(lambda: service.get("/readyz")[0] == 200, "the enricher is ready")
    assert not [line for line in service.lines() if "journal" in str(line)]
    there = AdminClient(folder.site.connection).list_topics(timeout=120).topics
    assert f"{folder.site.prefix}.flows" in there
    assert f"{folder.site.prefix}.journal" not in there
    with pytest.raises(NoTopicError, match="The journal is off where workers have WEIR_JOURNAL_DAYS=0"):
        next(read_journal(folder.site.connection, topics(folder.site.prefix, 4), "c1"))


def test_a_record_that_is_no_entry_is_a_dead_letter_and_the_rest_goes_on(folder: Folder) -> None:
    folder.policy(1)
    service = folder.start()
    folder.until_port(1)
    producer = Producer(folder.site.connection)
    producer.produce(f"{folder.site.prefix}.journal", b"{", b"c1/NetworkPolicy/shop/db", partition=0)
    assert producer.flush(120) == 0
    (letter,) = folder.site.read("dead", lambda found: len(found) >= 1)
    assert dict(letter.headers() or ())["reason"] == b"bad_entry"
    folder.policy(2)
    # Readers do not know the state after such a record, so it is written again.
    assert ports(folder.until_port(2)) == [1, 1, 2]
    assert metric(service, "kubeweir_streams_journal_bad_entries_total") == 1


def test_an_entry_of_somebody_else_is_told_and_made_up_for(folder: Folder) -> None:
    folder.policy(1)
    service = folder.start()
    true = folder.until_port(1)
    (db,) = (one for one in true if one.name == "db")
    lie = msgspec.structs.replace(
        db, seen_ns=db.seen_ns + 1, object=raw_state(NetworkPolicy("shop", "db", db.uid, ALL))
    )
    producer = Producer(folder.site.connection)
    producer.produce(f"{folder.site.prefix}.journal", encode_entry(lie), lie.key, partition=0)
    assert producer.flush(120) == 0
    (letter,) = folder.site.read("dead", lambda found: len(found) >= 1)
    assert dict(letter.headers() or ())["error"] == b"this worker writes the journal, and has not written this entry"
    entries = until(lambda: found if len(gaps(found := folder.entries())) == 2 else None, "a gap")
    assert ports(entries)[-1] == 1
    made = Timeline("c1", entries)
    state = state_of(db)
    for at_ns in (lie.seen_ns, (lie.seen_ns + entries[-1].seen_ns) // 2, entries[-1].seen_ns):
        assert made.unknown(Scope("shop"), at_ns, at_ns) or made.view_at(at_ns).policies == {("shop", "db"): state}
    assert made.unknown(Scope("shop"), entries[-1].seen_ns, entries[-1].seen_ns) == ""
    folder.policy(2)
    assert ports(folder.until_port(2))[-2:] == [1, 2]
    assert len(gaps(folder.entries())) == 2
    assert metric(service, "kubeweir_streams_journal_bad_entries_total") == 1
