"""`weir observe` as people run it, on a real topic."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from enrich.wire.cuts import Cut
from streams.cli.main import command as weir
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
        (("--last", "1000", "--not", "--verdict", "deny"), 110),
        (("--last", "1000", "--not", "--port", "443", "--not", "--protocol", "udp"), 100),
        (("--since", "3h", "--until", "1h"), 10),
        (("--since", "3h", "--until", "110m"), 10),
        (("--since", "3h", "--until", "150m"), 0),
        (("--last", "1000", "--subject", "shop/web-0"), 120),
        (("--since", "3h", "--subject", "shop/web-0", "--verdict", "deny"), 10),
        (("--last", "1000", "--subject", "shop/api-0"), 0),
        (("--last", "1000", "--node", "n1", "--cidr", "10.0.0.30"), 10),
        (("--last", "1000", "--cel", "flow.connection.dest_port == 443"), 10),
        (("--last", "1000", "--not", "--cel", "flow.connection.dest_port == 443"), 110),
    ],
)
def test_filters_choose(filled: Site, arguments: tuple[str, ...], count: int) -> None:
    assert len(observe(filled, *arguments)) == count


def test_records_are_counted_and_columns_are_chosen(filled: Site) -> None:
    counts = observe(filled, "--since", "3h", "--by", "verdict,port")
    assert [(one["verdict"], one["port"], one["records"]) for one in counts] == [
        ("allow", 8080, 100), ("allow", 53, 10), ("deny", 443, 10),
    ]  # fmt: skip
    (last,) = observe(filled, "--by", "verdict", "--last", "5")
    assert (last["verdict"], last["records"]) == ("deny", 5)
    rows = observe(filled, "--since", "3h", "--port", "53", "--fields", "src,dest,port")
    assert rows == [{"src": "shop/web-0", "dest": "shop/db-0", "port": 53}] * 10


def test_an_expression_that_fails_for_some_records_says_so(filled: Site) -> None:
    arguments = command(filled, "-o", "json", "--last", "5", "--cel", "flow.icmp.type == 8")
    done = subprocess.run(arguments, capture_output=True, timeout=PATIENCE_S, check=True)
    assert b"could not be evaluated for some records" in done.stderr
    assert done.stdout == b""


def pods(count: int) -> list[str]:
    return [f"shop/web-{number}" for number in range(count)]


START = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)


def write_flows(site: Site, topic: str, keys: list[str], first: int, **settings: Any) -> None:
    """Write a record for each key, ten a second from START on, each with its number as its id."""
    producer = Producer({"bootstrap.servers": site.broker, "partitioner": "murmur2_random", **settings})
    for number, key in enumerate(keys, first):
        at = START.timestamp() + number / 10
        producer.produce(topic, flow_of(key, number, at), key, timestamp=int(at * 1000))
    assert producer.flush(PATIENCE_S) == 0


def flow_of(key: str, number: int, at: float) -> bytes:
    namespace, _, pod = key.partition("/")
    timestamp = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"
    return orjson.dumps(
        {
            "connection": {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "protocol": "tcp", "direction": "egress"},
            "disposition": "allow", "reason": "policy", "policies": [], "isolated_by": [],
            "src": {"pod_name": pod, "namespace": namespace}, "dest": {"pod_name": "web-3", "namespace": "shop"},
            "count": 1, "timestamp": timestamp, "last_timestamp": timestamp, "node_name": "n1", "cluster": "c1",
            "schema": 1, "id": f"r-{number}",
        }
    )  # fmt: skip


def answers(site: Site, prefix: str) -> list[tuple[list[str], list[str]]]:
    """Return the ids that a question gives that reads one partition, and that the same question gives of all."""
    window = ("--since", START.isoformat(), "--until", (START + timedelta(seconds=50)).isoformat())
    found = []
    for times in (("--since", START.isoformat()), ("--last", "1000"), window):
        for pod in ("shop/web-3", "shop/web-17"):
            # A pattern may fit pods of any partition.
            found.append(
                (ids(site, prefix, "--subject", pod, *times), ids(site, prefix, "--subject", f"{pod}*", *times))
            )
    return found


def ids(site: Site, prefix: str, *arguments: str) -> list[str]:
    options = ["observe", "--kafka", site.broker, "--topic-prefix", prefix, "-o", "json", *arguments]
    result = CliRunner().invoke(weir, options)
    assert result.exit_code == 0, result.output
    records = [orjson.loads(line) for line in result.stdout_bytes.splitlines()]
    return [record["id"] for record in records if record["src"]["pod_name"] in {"web-3", "web-17"}]


def test_the_answer_of_one_partition_is_that_of_all(filled: Site) -> None:
    prefix = f"narrow{time.monotonic_ns()}"
    admin = AdminClient({"bootstrap.servers": filled.broker})
    admin.create_topics([NewTopic(f"{prefix}.flows", 5, 1)])[f"{prefix}.flows"].result(PATIENCE_S)
    write_flows(filled, f"{prefix}.flows", pods(40) * 25, 0)
    found = answers(filled, prefix)
    assert [fast for fast, _ in found] == [whole for _, whole in found]
    assert [len(fast) for fast, _ in found] == [25, 25, 25, 25, 13, 13]


def test_the_answer_is_right_although_somebody_has_added_partitions(filled: Site) -> None:
    prefix = f"grown{time.monotonic_ns()}"
    topic, admin = f"{prefix}.flows", AdminClient({"bootstrap.servers": filled.broker})
    admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(PATIENCE_S)
    write_flows(filled, topic, pods(40) * 5, 0)
    admin.create_partitions([NewPartitions(topic, 7)])[topic].result(PATIENCE_S)
    until(lambda: len(admin.list_topics(topic, timeout=120).topics[topic].partitions) == 7 or None, "seven partitions")
    write_flows(filled, topic, pods(40) * 5, 200, **{"topic.metadata.refresh.interval.ms": 100})
    found = answers(filled, prefix)
    assert [fast for fast, _ in found] == [whole for _, whole in found]
    assert [len(fast) for fast, _ in found] == [10, 10, 10, 10, 10, 10]


def test_the_table_says_who_whom_and_why(filled: Site) -> None:
    done = subprocess.run(
        command(filled, "--last", "1", "--verdict", "deny"), capture_output=True, timeout=PATIENCE_S, check=True
    )
    heading, line = done.stdout.decode().splitlines()
    assert heading.split() == ["TIME", "DIRECTION", "FROM", "TO", "PORT", "VERDICT", "POLICIES"]
    cells = line.split(maxsplit=6)
    assert cells[1:] == ["ingress", "shop/api-0", "shop/web-0", "tcp/443", "deny", "isolated by shop/web-allow-api"]
    assert "\x1b" not in line, "colours are for terminals"


def test_what_a_node_has_not_logged_because_of_its_limit_is_a_line(filled: Site) -> None:
    cut = {"ring": "limited", "cut": [Cut("limit", "allowed", 12034, 12034, 1000)]}
    filled.send(make_batch(0, 0, cut))
    filled.flush()

    def table() -> list[str]:
        done = subprocess.run(command(filled, "--last", "1"), capture_output=True, timeout=PATIENCE_S, check=True)
        return done.stdout.decode().splitlines()

    expected = "node n1: 12,034 allowed verdicts not logged in 1 s: WEIR_LIMIT_ALLOWED"
    until(lambda: expected in table() or None, "the line")
    assert len(observe(filled, "--last", "1")) == 1, "JSON has records only"


@contextlib.contextmanager
def killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process after the block, if it still runs, and close its pipes: no failed test leaves them behind."""
    with process:
        try:
            yield
        finally:
            process.kill()


def test_following_shows_what_comes_and_ctrl_c_ends_it(filled: Site) -> None:
    out: Path = filled.folder / "followed"
    with out.open("wb") as file:
        process = subprocess.Popen(command(filled, "-f", "--last", "1", "-o", "json"), stdout=file)
    with killed_at_the_end(process):
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
        with killed_at_the_end(process):
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            filled.send(make_batch(600, 1, {"ring": f"pipe-{output}"}))
            filled.flush()
            assert process.wait(PATIENCE_S) == 0
            assert process.stderr.read() == b""


def test_no_kafka_and_no_topic_print_one_line_for_each_cause(filled: Site) -> None:
    for arguments, said in (
        (("--kafka", "127.0.0.1:1"), ["cannot be reached at 127.0.0.1:1", "takes no connection"]),
        (("--topic-prefix", "nobody"), ["no topic nobody.flows"]),
    ):
        done = subprocess.run(
            command(filled, *arguments), capture_output=True, timeout=PATIENCE_S, check=False, text=True
        )
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert len(lines) == len(said), lines
        for line, text in zip(lines, said, strict=True):
            assert line.startswith("weir: ")
            assert text in line


@pytest.fixture(scope="module")
def copied(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A log that a transactional producer has written, as a copy is; and a deny that only flows.denied still has."""
    site = Site(broker, f"c{time.monotonic_ns()}", tmp_path_factory.mktemp("copied"))
    admin = AdminClient({"bootstrap.servers": broker})
    topics = [NewTopic(f"{site.prefix}.{name}", 2) for name in ("flows", "flows.denied")]
    for future in admin.create_topics(topics).values():
        future.result(PATIENCE_S)
    producer = Producer({"bootstrap.servers": broker, "transactional.id": site.prefix})
    producer.init_transactions(PATIENCE_S)
    now, day_s = time.time(), 86400
    # Written now, whatever they are about; the last offset of each partition is the transaction's mark.
    for topic, partition, number, age_s in (
        ("flows", 0, 2, 2 * day_s), ("flows", 1, 3, 120), ("flows", 0, 4, 60), ("flows.denied", 0, 4, 60),
        ("flows.denied", 1, 1, 10 * day_s),
    ):  # fmt: skip
        producer.begin_transaction()
        producer.produce(f"{site.prefix}.{topic}", flow(number, now - age_s), b"k", partition)
        producer.commit_transaction(PATIENCE_S)
    return site


def flow(number: int, seconds: float) -> bytes:
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + ".000000000Z"
    connection = {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "protocol": "tcp", "direction": "egress"}
    return orjson.dumps(
        {
            "connection": connection, "disposition": "deny", "reason": "default_deny", "policies": [],
            "isolated_by": [], "src": {}, "dest": {}, "count": 1, "timestamp": when, "last_timestamp": when,
            "node_name": "n", "id": f"r-{number}", "cluster": "c", "schema": 1,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--last", "9"), ["r-1", "r-2", "r-3", "r-4"]),
        (("--last", "2"), ["r-3", "r-4"]),
        (("--since", "1h"), ["r-3", "r-4"]),
        (("--since", "20d"), ["r-1", "r-2", "r-3", "r-4"]),
        (("--since", "20d", "--verdict", "DENY", "--reason", "default-deny"), ["r-1", "r-2", "r-3", "r-4"]),
        (("--since", "20d", "--verdict", "allow"), []),
    ],
)
def test_a_copied_log_and_older_denies_end_in_order(copied: Site, arguments: tuple[str, ...], found: list[str]) -> None:
    assert [record["id"] for record in observe(copied, *arguments)] == found


@pytest.mark.parametrize(
    ("arguments", "out", "code", "said"),
    [
        (("--since", "999999999d"), os.devnull, 2, "is too far away"),
        (("--protocol", "tpc"), os.devnull, 2, "must be one of icmp, tcp"),
        (("--last", "9"), "/dev/full", 3, "weir: standard output cannot be written: No space left on device\n"),
        (("--last", "9", "-o", "json"), "/dev/full", 3, "weir: standard output cannot be written: No space left"),
        (("--help",), "/dev/full", 3, "weir: standard output cannot be written: No space left on device\n"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(
    copied: Site, arguments: tuple[str, ...], out: str, code: int, said: str
) -> None:
    with Path(out).open("wb") as file:
        done = subprocess.run(
            command(copied, *arguments), stdout=file, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False, text=True
        )
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
