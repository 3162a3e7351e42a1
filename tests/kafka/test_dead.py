"""`weir dead` on a real dead-letter topic."""

from __future__ import annotations

import secrets

import orjson
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.cli.main import command
from streams.kafka.dead_letter_form import Headers, cut, headers_of
from tests.kafka.site import PATIENCE_S, Site

pytestmark = pytest.mark.kafka


def weir(site: Site, *arguments: str) -> Result:
    options = ["--kafka", site.broker, "--topic-prefix", site.prefix]
    return CliRunner().invoke(command, ["dead", *arguments, *options], catch_exceptions=False)


def letter(site: Site, value: bytes, headers: Headers) -> None:
    producer = Producer({"bootstrap.servers": site.broker})
    producer.produce(f"{site.prefix}.dead", value, b"k", headers=headers)
    assert producer.flush(PATIENCE_S) == 0


@pytest.fixture
def filled(broker: str, site: Site) -> Site:
    """Six letters: one each that can be sent again, of the flows, cut, forged, of an output, and without headers."""
    admin = AdminClient({"bootstrap.servers": broker})
    topics = [
        NewTopic(f"{site.prefix}.{name}", count) for name, count in (("dead", 1), ("verdicts.raw", 3), ("flows", 1))
    ]
    for future in admin.create_topics(topics).values():
        future.result(PATIENCE_S)
    raw = f"{site.prefix}.verdicts.raw"
    letter(site, b"a batch \x1b[31m", headers_of(raw, 2, 40, "foreign_cluster", "of c2"))
    letter(site, b"{}", headers_of(f"{site.prefix}.flows", 0, 7, "sink_refused", "400", b"shop/web-0"))
    letter(site, *cut(b"x" * 100, headers_of(raw, 0, 1, "foreign_cluster", "of c2"), 50))
    letter(site, b"y", headers_of("payments", 0, 1, "foreign_cluster", "of c2"))
    letter(site, b"z", headers_of(raw, 0, 1, "refused", f"{site.prefix}.flows: too large"))
    letter(site, b"w", [])
    return site


def test_letters_are_listed_and_shown_with_what_they_say(filled: Site) -> None:
    listed = weir(filled, "list")
    assert listed.exit_code == 0
    first = listed.stdout.splitlines()[0].split("  ")
    assert [first[0], *first[2:]] == [
        "0/0", "foreign_cluster", f"from {filled.prefix}.verdicts.raw/2/40", "13 bytes", "of c2",
    ]  # fmt: skip
    assert f"1 of the reason sink_refused from {filled.prefix}.flows" in listed.stderr
    [found] = map(orjson.loads, weir(filled, "list", "--reason", "sink_refused", "-o", "json").stdout.splitlines())
    assert (found["id"], found["headers"]["error"]) == ("0/1", "400")
    shown = weir(filled, "show", "0/0")
    assert "reason: foreign_cluster\n" in shown.stdout
    assert "value: 13 bytes\na batch \\x1b[31m\n" in shown.stdout, "what a terminal would obey is escaped"
    assert weir(filled, "show", "0/0", "--raw").stdout_bytes == b"a batch \x1b[31m"
    assert weir(filled, "show", "0/99").exit_code == 2


def test_what_is_sent_again_is_marked_and_never_loops(filled: Site) -> None:
    dry = weir(filled, "redrive", "--dry-run")
    assert dry.stdout.splitlines() == [
        f"0/0: would be sent to {filled.prefix}.verdicts.raw/2", f"0/1: would be sent to {filled.prefix}.flows/0",
    ]  # fmt: skip
    for why in ("it was cut", "'payments' is none that", "made from", "its topic '' is none"):
        assert why in dry.stderr
    assert weir(filled, "redrive", "0/0", "0/77").exit_code == 1
    [sent] = filled.read("verdicts.raw", lambda found: len(found) >= 1)
    assert (sent.partition(), sent.value()) == (2, b"a batch \x1b[31m")
    assert dict(sent.headers()) == {"redriven": b"1", "redriven_from": f"{filled.prefix}.dead/0/0".encode()}
    # It is refused again, by whoever reads it; nothing else happens to it by itself.
    letter(filled, sent.value(), headers_of(sent.topic(), 2, 0, "foreign_cluster", "of c2"))
    again = weir(filled, "redrive", "--reason", "foreign_cluster")
    assert again.exit_code == 1
    assert "came back after it was sent again" in again.stderr
    assert "0 sent, 3 not" in again.stderr, "and the first letter is done"
    assert "came back after it was sent again once" in weir(filled, "list").stdout
    assert "1 sent, 2 not" in weir(filled, "redrive", "--reason", "foreign_cluster", "--again").stderr
    twice = filled.read("verdicts.raw", lambda found: len(found) >= 2)
    assert [dict(one.headers())["redriven"] for one in twice] == [b"1", b"2"]
    limited = weir(filled, "redrive", "--limit", "1", "0/1")
    assert limited.exit_code == 0
    [flow] = filled.read("flows", lambda found: len(found) >= 1)
    assert flow.key() == b"shop/web-0"


def test_a_missing_topic_is_one_line(broker: str, site: Site) -> None:
    done = weir(Site(broker, f"none{secrets.token_hex(4)}", site.folder), "list")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
