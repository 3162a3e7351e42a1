"""`weir observe` as people run it, on a real topic."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.kafka.batches import PODS, make_batch, mapped, write_manifests
from tests.kafka.site import PATIENCE_S, Site, until

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def filled(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """120 flows: 100 allows of web-0 to api-0, 10 denies from api-0, 10 UDP allows to db-0 two hours ago."""
    folder = tmp_path_factory.mktemp("observe")
    write_manifests(folder / "manifests")
    site = Site(broker, f"o{time.monotonic_ns()}", folder)
    site.start_enrich()
    site.send(make_batch(0, 10, age_s=7200, destination=mapped(PODS["db-0"]), protocol=17, destination_port=53))
    site.send(make_batch(10, 100))
    site.send(make_batch(110, 10, denied=True, ingress=True, destination_port=443))
    site.flush()
    site.read_flows(120)
    yield site
    site.end()


def command(site: Site, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "streams.cli.main", "observe", "--kafka", site.broker, "--topic-prefix", site.prefix,
        *arguments,
    ]  # fmt: skip


def observe(site: Site, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(command(site, "-o", "json", *arguments), capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    if not done.stdout:
        assert b"no flows match" in done.stderr
    return [orjson.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("--since", "1h"), 110),
        (("--since", "3h"), 120),
        ((), 20),
        (("--last", "7"), 7),
        (("--last", "1000"), 120),
        (("--last", "1000", "--verdict", "deny"), 10),
        (("--last", "5", "--protocol", "udp"), 5),
        (("--last", "1000", "--port", "443", "--port", "53"), 20),
        (("--last", "1000", "-n", "shop", "--direction", "ingress"), 10),
        (("--last", "1000", "--from", "shop/api-*"), 10),
        (("--last", "1000", "--to", "db-0"), 10),
        (("--last", "1000", "-l", "app=db"), 10),
        (("--last", "1000", "--policy", "web-allow-api", "--verdict", "deny"), 10),
        (("--last", "1000", "--pod", "nobody"), 0),
    ],
)
def test_filters_choose(filled: Site, arguments: tuple[str, ...], count: int) -> None:
    assert len(observe(filled, *arguments)) == count


def test_the_table_says_who_whom_and_why(filled: Site) -> None:
    done = subprocess.run(
        command(filled, "--last", "1", "--verdict", "deny"), capture_output=True, timeout=PATIENCE_S, check=True
    )
    heading, line = done.stdout.decode().splitlines()
    assert heading.split() == ["TIME", "DIRECTION", "FROM", "TO", "PORT", "VERDICT", "POLICIES"]
    cells = line.split(maxsplit=6)
    assert cells[1:] == ["ingress", "shop/api-0", "shop/web-0", "tcp/443", "deny", "isolated by shop/web-allow-api"]
    assert "\x1b" not in line, "colours are for terminals"


def test_following_shows_what_comes_and_ctrl_c_ends_it(filled: Site) -> None:
    out: Path = filled.folder / "followed"
    with out.open("wb") as file:
        process = subprocess.Popen(command(filled, "-f", "--last", "1", "-o", "json"), stdout=file)
    until(lambda: out.read_bytes().count(b"\n") == 1 or None, "the last flow")
    filled.send(make_batch(500, 3, {"ring": "later"}))
    filled.flush()
    until(lambda: out.read_bytes().count(b'"later-') == 3 or None, "what came")
    process.send_signal(2)
    assert process.wait(PATIENCE_S) == 130


def test_a_reader_that_goes_away_is_no_error(filled: Site) -> None:
    for output in ("table", "json"):
        process = subprocess.Popen(
            command(filled, "-f", "--since", "3h", "-o", output), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        filled.send(make_batch(600, 1, {"ring": f"pipe-{output}"}))
        filled.flush()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == b""
        process.stderr.close()


def test_no_kafka_and_no_topic_are_one_line_each(filled: Site) -> None:
    for arguments, said in (
        (("--kafka", "127.0.0.1:1"), "cannot be reached at 127.0.0.1:1"),
        (("--topic-prefix", "nobody"), "no topic nobody.flows"),
    ):
        done = subprocess.run(
            command(filled, *arguments), capture_output=True, timeout=PATIENCE_S, check=False, text=True
        )
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
