"""`weir sql` on real topics: it counts what `weir observe` shows, and says what is not kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from enrich.history.moments import moment
from enrich.history.profile import number_of
from enrich.wire.batch import CUT
from enrich.wire.pair import HOUR_NS
from enrich.wire.topics import topics
from streams.cli.main import command
from streams.kafka.topics import prepare_topics
from tests.enrich.history.journals import CLUSTER, at, entry, gone, policy
from tests.kafka.batches import PODS, make_batch, mapped, write_manifests
from tests.kafka.pasts import HOUR, write_past
from tests.kafka.site import PATIENCE_S, Site, until
from tests.kafka.test_advice import DB, JOURNAL, PROFILES, SEEN, SPY, WEB

pytestmark = pytest.mark.kafka
V6 = [0xFD] + [0] * 14 + [9]


def run(site: Site, *arguments: str) -> Result:
    env = {"WEIR_KAFKA": site.connection["bootstrap.servers"], "WEIR_TOPIC_PREFIX": site.prefix}
    return CliRunner().invoke(command, list(arguments), env=env)


def rows(site: Site, query: str, *arguments: str, warns: str = "") -> list[dict[str, Any]]:
    done = run(site, "sql", query, "-o", "json", *arguments)
    assert done.exit_code == 0, done.output
    assert warns in done.stderr if warns else not done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def filled(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """340 flows of two rings, 5 denials that are not logged, a batch that came twice, and a record that is none."""
    folder = tmp_path_factory.mktemp("sql")
    write_manifests(folder / "manifests")
    site = Site(broker, f"q{time.monotonic_ns()}", folder)
    site.start_enrich(WEIR_ALERTS_FEED="all")
    site.send(make_batch(0, 10, age_s=7200, destination=mapped(PODS["db-0"]), protocol=17, destination_port=53))
    twice = make_batch(10, 100)
    site.send(twice)
    site.send(twice)
    site.send(make_batch(110, 10, denied=True, ingress=True, destination_port=443, rule=0))
    site.send(make_batch(120, 5, denied=True, destination_port=444, flags=CUT))
    other = {"ring": "r2", "rules": {}, "endpoints": {}}
    site.send(make_batch(0, 120, other, destination=V6, age_s=60), "c1/n1/r2")
    site.send(make_batch(120, 100, other, protocol=1, destination_port=8 << 8, endpoint=0, age_s=60), "c1/n1/r2")
    site.send(b"rubbish")
    site.flush()
    site.read_flows(340)
    yield site
    site.end()


def test_it_has_each_verdict_that_observe_shows_once_with_the_same_values(filled: Site) -> None:
    done = run(filled, "observe", "-o", "json", "--since", "3h")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 340
    expected = {
        record["id"]: (
            record["disposition"], record["connection"]["src_ip"], record["connection"]["dest_ip"],
            record["connection"].get("dest_port"), record.get("icmp", {}).get("type"),
            record["connection"]["protocol"], record["count"], record["timestamp"][:26],
        )
        for record in records
    }  # fmt: skip
    query = """SELECT id, disposition, src_ip, dest_ip, dest_port, icmp_type, protocol, count, timestamp AS at
               FROM verdicts WHERE logged"""
    found = rows(filled, query, "--since", "3h", warns="1 records of")
    assert len(found) == 340
    assert {
        row["id"]: (
            row["disposition"], row["src_ip"], row["dest_ip"], row["dest_port"], row["icmp_type"], row["protocol"],
            row["count"], row["at"].removesuffix("Z").ljust(26, "0"),
        )
        for row in found
    } == expected  # fmt: skip


def test_counts_equal_those_of_observe_by(filled: Site) -> None:
    done = run(filled, "observe", "-o", "json", "--since", "3h", "--by", "disposition,protocol,port")
    if done.exit_code:
        done = run(filled, "observe", "-o", "json", "--since", "3h", "--by", "verdict,protocol,port")
    assert done.exit_code == 0, done.output
    counted = [json.loads(line) for line in done.stdout.splitlines()]
    query = "SELECT disposition, protocol, dest_port, count(*) AS n FROM verdicts WHERE logged GROUP BY ALL"
    found = rows(filled, query, "--since", "3h", warns="cannot be read")
    assert sorted(row["n"] for row in found) == sorted(row["records"] for row in counted)
    assert Counter({(row["protocol"], row["dest_port"]): row["n"] for row in found}) == {
        ("udp", 53): 10, ("tcp", 8080): 220, ("tcp", 443): 10, ("icmp", None): 100,
    }  # fmt: skip


def test_the_window_is_that_of_the_verdicts(filled: Site) -> None:
    count = "SELECT count(*) AS n, count(*) FILTER (NOT logged) AS cut FROM verdicts"
    assert rows(filled, count, "--since", "1h", warns="cannot be read") == [{"n": 335, "cut": 5}]
    window = ("--since", "3h", "--until", "1h")
    assert rows(filled, count, *window, "--late", "2h", warns="cannot be read") == [{"n": 10, "cut": 0}]
    # They came two hours after their time.
    assert rows(filled, count, *window) == [{"n": 0, "cut": 0}]
    assert rows(filled, count, "--since", "1h", "--cluster", "c2", warns="cannot be read") == [{"n": 0, "cut": 0}]


def test_a_record_that_cannot_be_read_is_counted_and_said(filled: Site) -> None:
    done = run(filled, "sql", "SELECT count(*) FROM verdicts a JOIN verdicts b USING (id)")
    assert done.exit_code == 0, done.output
    assert f"1 records of {filled.prefix}.verdicts.raw cannot be read: no_header" in done.stderr


def test_subjects_and_policies_are_those_of_the_batch(filled: Site) -> None:
    query = """SELECT subject_namespace || '/' || subject_pod_name AS pod, policies[1].name AS policy, count(*) AS n
               FROM verdicts WHERE dest_port = 8080 GROUP BY ALL ORDER BY n"""
    assert rows(filled, query, warns="cannot be read") == [
        {"pod": "shop/web-0", "policy": "web-allow-api", "n": 100},
        {"pod": None, "policy": None, "n": 120},
    ]


class Raw:
    """A raw topic of one partition."""

    def __init__(self, site: Site) -> None:
        self.names = topics(site.prefix, 1)
        self._site = site
        assert prepare_topics(site.connection, [self.names.raw], 0, threading.Event())

    def send(self, value: bytes) -> None:
        producer = Producer(self._site.connection)
        producer.produce(self.names.raw.name, value, "c1/n1/r1")
        assert producer.flush(PATIENCE_S) == 0

    def remove(self, before: int) -> None:
        """Remove records, as retention would."""
        admin = AdminClient(self._site.connection)
        (future,) = admin.delete_records([TopicPartition(self.names.raw.name, 0, before)]).values()
        assert future.result(PATIENCE_S).low_watermark == before


def test_what_is_not_kept_any_more_is_said(site: Site) -> None:
    raw = Raw(site)
    raw.send(make_batch(0, 10))
    raw.send(make_batch(10, 20))
    count = "SELECT count(*) AS n FROM verdicts"
    assert rows(site, count) == [{"n": 30}]
    raw.remove(1)
    assert rows(site, count, warns="verdicts are kept from 20") == [{"n": 20}]
    done = run(site, "sql", count, "--since", "3d", "--until", "2d")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "cannot say: verdicts are kept from 20" in done.stderr


def test_without_a_topic_there_is_no_answer(site: Site) -> None:
    for table in ("verdicts", "pairs", "policies", "profiles"):
        done = run(site, "sql", f"SELECT count(*) FROM {table}")  # noqa: S608 - a test's own text
        assert (done.exit_code, done.stdout) == (3, "")
        assert f"there is no topic {site.prefix}." in done.stderr


def test_pairs_policies_and_profiles_can_be_joined(site: Site) -> None:
    changed = policy("old", {"podSelector": {}})
    shut = policy("shut", {"podSelector": {}, "ingress": []})
    write_past(site, [*JOURNAL, entry(shut, 5), entry(changed, 3600, by="helm", version="2"), gone(shut, 7200)], SEEN)
    query = """SELECT subject_workload_name AS subject, coalesce(peer_workload_name, peer_block) AS peer, disposition,
               policies[1].name AS policy, verdicts, labels['app'] AS app, hour FROM pairs
               JOIN profiles ON subject_profile = profile ORDER BY verdicts DESC"""
    hour = moment(HOUR * HOUR_NS)
    assert rows(site, query, warns="the pairs are complete from") == [
        {"subject": "db", "peer": "web", "disposition": "allow", "policy": "old", "verdicts": 7, "app": "db",
         "hour": hour},
        {"subject": "db", "peer": "spy", "disposition": "deny", "policy": None, "verdicts": 3, "app": "db",
         "hour": hour},
        {"subject": "web", "peer": "198.51.100.7/32", "disposition": "allow", "policy": None, "verdicts": 2,
         "app": "web", "hour": hour},
    ]  # fmt: skip
    query = """SELECT name, changed_by, until IS NULL AS current, json_array_length(object->'$.ingress') AS rules
               FROM policies ORDER BY since"""
    begins = f"policies are not known for all of the window: the journal begins at {moment(at(0))}"
    assert rows(site, query, warns=begins) == [
        {"name": "old", "changed_by": "kubectl", "current": False, "rules": 2},
        {"name": "shut", "changed_by": "kubectl", "current": False, "rules": 0},
        {"name": "old", "changed_by": "helm", "current": True, "rules": 0},
    ]
    query = "SELECT profile, ports[1].name AS port, ports[1].protocol AS protocol FROM profiles"
    profiles = rows(site, query, "--since", moment(at(60)))
    assert {row["profile"] for row in profiles} == {number_of(one) for one in PROFILES}
    assert {(row["port"], row["protocol"]) for row in profiles} == {("main", "TCP")}
    assert WEB.profile != DB.profile != SPY.profile
    assert rows(site, "SELECT DISTINCT cluster FROM policies", "--since", moment(at(60))) == [{"cluster": CLUSTER}]
    done = run(site, "sql", "SELECT * FROM policies", "--since", moment(at(-3600)), "--until", moment(at(-1800)))
    assert done.exit_code == 3, done.output
    assert "cannot say: the journal begins at" in done.stderr


def test_ctrl_c_ends_a_long_query(site: Site, tmp_path: Path) -> None:
    query = "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE hash(a.range, b.range) = 1"
    weir = [sys.executable, "-m", "streams.cli.main", "sql", "--kafka", site.broker, query]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(weir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        # It makes its folder once everything is imported. From then on, nothing but the query takes seconds.
        try:
            until(lambda: list(tmp_path.glob("weir-sql-*")) or None, "the folder of the query")
            begun = _processor_s(process.pid)
            until(lambda: _processor_s(process.pid) > begun + 2 or None, "the query runs")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, ""), err


def _processor_s(pid: int) -> float:
    """Return how many seconds of a processor a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
