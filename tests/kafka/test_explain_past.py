"""`weir explain --at` and `weir explain RECORD-ID` on a real journal, real address intervals and real records."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from enrich.history.stand_ins import EVERYWHERE
from streams.cli.explain_past import intervals_of
from streams.cli.main import command
from streams.cli.past import load_past
from streams.kafka.reading_limit import ReadingLimitError, reading_within
from tests.enrich.history.journals import CLUSTER, at, gap, refused
from tests.kafka.shop import CHANGED, CLOSED, JOURNAL, record, write_shop
from tests.kafka.site import Site

pytestmark = pytest.mark.kafka


def _run(site: Site, *arguments: str) -> Result:
    env = {"WEIR_KAFKA": site.connection["bootstrap.servers"], "WEIR_TOPIC_PREFIX": site.prefix}
    return CliRunner().invoke(command, ["explain", *arguments], env=env)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(at(seconds) / 1e9, UTC).isoformat()


def test_policies_are_asked_as_of_then_and_the_changes_since_are_named(site: Site) -> None:
    write_shop(site)
    done = _run(site, "shop/web-1", "shop/db-1:postgres", "--at", _time(500))
    assert done.exit_code == 1, done.output
    assert "DENIED  shop/web-1 -> shop/db-1, port 5432/TCP" in done.stdout
    assert "NetworkPolicy shop/db was changed 8 min later" in done.stdout
    assert "by kubectl-client-side-apply" in done.stdout
    assert "today it would be allowed" in done.stdout
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(1500), "-o", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["then"]["verdict"], found["changes"], found["today"]["verdict"]) == ("allow", [], "allow")


def test_what_reads_the_past_for_others_reads_so_much_only(site: Site) -> None:
    """The page asks for many people, in the memory of one process."""
    names = write_shop(site)
    with reading_within(60, 100), pytest.raises(ReadingLimitError, match="from Kafka"):
        load_past(site.connection, names, CLUSTER, at(500), EVERYWHERE)
    with reading_within(60, 100), pytest.raises(ReadingLimitError, match="from Kafka"):
        intervals_of(site.connection, names.endpoints.name, CLUSTER)
    with reading_within(60, 1 << 20):
        load_past(site.connection, names, CLUSTER, at(500), EVERYWHERE)
        assert len(intervals_of(site.connection, names.endpoints.name, CLUSTER)) == 2


def test_in_a_gap_and_before_the_journal_it_cannot_say(site: Site) -> None:
    write_shop(site, [*JOURNAL, gap(1100, 1200), refused(CLOSED, 1300)])
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(1350))
    assert done.exit_code == 2
    assert "the journal does not have the version of NetworkPolicy shop/db of" in done.stdout
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(500))
    assert done.exit_code == 1
    assert "what policies say today is not known" in done.stdout
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(1150))
    assert done.exit_code == 2
    assert "CANNOT SAY" in done.stdout
    assert "the journal was not written from" in done.stdout
    done = _run(site, "shop/web-1", "shop/db-1:5432", "--at", _time(-50))
    assert "the journal begins at" in done.stdout
    done = _run(site, "shop/gone", "shop/db-1:5432", "--at", _time(500))
    assert done.exit_code == 2
    assert "shop/gone had no address then" in done.stdout


@pytest.mark.parametrize("intervals", [True, False])
def test_a_record_is_explained_by_the_policies_that_made_it(site: Site, intervals: bool) -> None:
    """Without address intervals, the profiles of its workloads have the labels."""
    names = write_shop(site, intervals=intervals)
    producer = Producer(site.connection)
    # The kernel still had the old version for two seconds.
    records = [record("ring-1", 500), record("ring-2", CHANGED + 2), record("ring-3", CHANGED + 500)]
    for one in records:
        producer.produce(names.denied.name, one)
    assert producer.flush(120) == 0
    for record_id in ("ring-1", "ring-2"):
        done = _run(site, record_id, "-o", "json")
        assert done.exit_code == 1, done.output
        found = json.loads(done.stdout)
        assert (found["agrees"], found["then"]["verdict"], found["today"]["verdict"]) == (True, "deny", "allow")
        assert [one["by"] for one in found["changes"]] == ["kubectl-client-side-apply"]
    done = _run(site, "ring-3")
    assert "the policies of its time say otherwise than was recorded" in done.stdout
    done = _run(site, "ring-4")
    assert done.exit_code == 2
    assert "has the id ring-4; --since looks further back" in done.stderr
    assert "is not the id of a record" in _run(site, "x").stderr
