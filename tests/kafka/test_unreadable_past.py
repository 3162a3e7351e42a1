"""What each command about the past says of records that cannot be read: the rest answers, and it is told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from enrich.wire.topics import Topics
from streams.cli.main import command
from tests.enrich.history.journals import CLUSTER, SECOND_NS, START_NS, entry, policy, refused
from tests.kafka.pasts import write_past
from tests.kafka.site import Site
from tests.kafka.test_advice import JOURNAL, OLD, SEEN

pytestmark = pytest.mark.kafka
ELSEWHERE = policy("db", {"podSelector": {}}, "data")


def run(site: Site, *arguments: str | Path) -> Result:
    env = {"WEIR_KAFKA": site.connection["bootstrap.servers"], "WEIR_TOPIC_PREFIX": site.prefix}
    return CliRunner().invoke(command, [*map(str, arguments), "--since", "1d"], env=env)


def write(topic: str, site: Site, records: Sequence[tuple[bytes, bytes]]) -> None:
    producer = Producer(site.connection)
    for key, value in records:
        producer.produce(topic, value, key)
    assert producer.flush(120) == 0


@pytest.fixture
def topics(site: Site) -> Topics:
    """A past, with records in both topics that cannot be read, and a state of another namespace that was refused."""
    names = write_past(site, [*JOURNAL, entry(ELSEWHERE, 0), refused(ELSEWHERE, 10)], SEEN)
    keys = [f"{CLUSTER}/NetworkPolicy/data/other".encode(), b"", b"c2/NetworkPolicy/shop/old"]
    write(names.journal.name, site, [(key, value) for key in keys for value in (b"{", b"[]", b"\xff" * 1000)])
    write(names.pairs.name, site, [(b"counts", b"{"), (b"", b"\x00"), (b"x" * 1000, b"[]")])
    return names


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "old.yaml"
    made.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: old, namespace: shop}\n"
        "spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}\n"
    )
    return made


@pytest.mark.usefixtures("topics")
def test_the_rest_answers_and_what_cannot_be_read_is_told(site: Site, file: Path) -> None:
    for arguments in (
        ("backtest", file), ("recommend", "-n", "shop"), ("policies", "-n", "shop"), ("diff", "cluster", file),
    ):  # fmt: skip
        done = run(site, *arguments)
        assert done.exit_code == 0, done.output
        assert "records of the journal cannot be read" in done.stderr, arguments
        assert "records of pairs cannot be read" in done.stderr, arguments
        assert "Traceback" not in done.output


@pytest.mark.usefixtures("topics")
def test_what_cannot_be_read_is_a_doubt_if_it_is_strict(site: Site, file: Path) -> None:
    for arguments in (("backtest", file), ("diff", "cluster", file)):
        assert run(site, *arguments, "--strict").exit_code == 3, arguments


@pytest.mark.usefixtures("topics")
def test_of_everything_there_is_no_answer_while_something_is_not_known(site: Site) -> None:
    for name in ("recommend", "policies"):
        done = run(site, name)
        assert done.exit_code == 3, done.output
        assert "the journal does not have the version of NetworkPolicy data/db" in done.stderr
        assert "-n NAMESPACE" in done.stderr


def test_an_object_that_cannot_be_read_has_no_answer_until_its_next_entry(site: Site, file: Path) -> None:
    names = write_past(site, JOURNAL, SEEN)
    write(names.journal.name, site, [(f"{CLUSTER}/NetworkPolicy/shop/old".encode(), b"{")])
    done = run(site, "policies", "-n", "shop")
    assert done.exit_code == 3
    assert "the version of NetworkPolicy shop/old" in done.stderr
    assert "cannot be read" in done.stderr
    # The writer would write it again, with the time of now: an entry that is far behind earlier ones is left out.
    write_past(site, [entry(OLD, (time.time_ns() - START_NS) / SECOND_NS, version="again")], [])
    done = run(site, "policies", "-n", "shop")
    assert done.exit_code == 0, done.output
