"""The options of `weir observe`: `--not`, expressions, chosen columns and counts; no Kafka."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import aiokafka.partitioner
import click
import orjson
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from streams.cli.columns import ColumnError, read_columns, row_of
from streams.cli.counts import Counts
from streams.cli.main import command
from streams.cli.negation import NegatingCommand, condition, split
from streams.cli.table import COMPACT, WIDE, FlowTable, layout_of
from streams.kafka.partitioner import partition_of
from streams.kafka.records import Record
from streams.observing.choice import Choice
from streams.observing.expression import CelExpression, ExpressionError
from streams.observing.filters import Filters
from streams.observing.narrowing import narrow
from streams.observing.observe import Shown
from tests.streams.observing.test_observe import RECORD, V6, Values, make_flow, make_value


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["observe", "--kafka", "127.0.0.1:1", *arguments])


@click.command(cls=NegatingCommand)
@condition("-p", "--port", "ports", type=int)
@condition("--pod", "pods", envvar="POD_OF_THE_TEST")
@click.option("--not", "_not", is_flag=True)
@click.option("--last", type=int)
def negating(**options: Any) -> None:
    """Print what is required, and what is not."""
    options.pop("_not")
    required, excluded = split(options)
    click.echo(repr(([required["ports"], required["pods"]], [excluded["ports"], excluded["pods"]])))


@pytest.mark.parametrize(
    ("arguments", "required", "excluded"),
    [
        (["--port", "1", "--not", "--port", "2", "--port", "3"], [(1, 3), ()], [(2,), ()]),
        (["--not", "--port=2", "--pod=a"], [(), ("a",)], [(2,), ()]),
        (["--not", "-p", "2", "--not", "-p3", "--not", "--pod", "a=b"], [(), ()], [(2, 3), ("a=b",)]),
        (["--last", "1", "--not", "--pod", "-x"], [(), ()], [(), ("-x",)]),
        (["--pod", "a"], [(), ("a",)], [(), ()]),
    ],
)
def test_not_turns_the_one_condition_behind_it(arguments: Sequence[str], required: Any, excluded: Any) -> None:
    result = CliRunner().invoke(negating, list(arguments))
    assert result.output.strip() == repr((required, excluded))


def test_not_concerns_no_condition_of_the_environment() -> None:
    result = CliRunner().invoke(negating, ["--not", "--pod", "a"], env={"POD_OF_THE_TEST": "b"})
    assert result.output.strip() == repr(([(), ("b",)], [(), ("a",)]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--not"], "--not at the end has no condition behind it"),
        (["--not", "--last", "1"], "--not before --last has no condition behind it"),
        (["--not", "80"], "--not before 80"),
        (["--not", "--not", "--port", "1"], "mean the condition itself"),
        (["--not", "--port"], "requires an argument"),
        (["--not", "--port", "x"], "is not a valid integer"),
    ],
)
def test_a_not_without_a_condition_is_refused(arguments: Sequence[str], said: str) -> None:
    result = CliRunner().invoke(negating, list(arguments))
    assert result.exit_code == 2
    assert said in result.output


def test_the_help_shows_not_once_and_no_hidden_option() -> None:
    text = CliRunner().invoke(command, ["observe", "--help"]).output
    assert "--not " in text
    assert "--not-" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--until", "5m"], "--until needs --since"),
        (["--since", "5m", "--until", "10m"], "is not after --since"),
        (["--since", "10m", "--until", "5m", "-f"], "what comes has no end"),
        (["--since", "10m", "--until", "5m", "--late", "x"], "is not a duration"),
        (["--by", "src", "-f"], "weir top --by"),
        (["--by", "src", "--fields", "src"], "cannot be used together"),
        (["--by", "src", "-o", "wide"], "use it with -o table or -o json"),
        (["--by", "scr"], "did you mean src?"),
        (["--by", "id"], "differs from record to record"),
        (["--by", "src,,dest"], "empty name"),
        (["--fields", "src,src"], "names src twice"),
        (["--fields", "nothing"], "SIDE.labels.KEY"),
        (["--cel", "flow.count >"], "at column 13:\n  flow.count >\n              ^"),
        (["--cel", "flow.count > 1 &&\n  flow..x"], "at line 2, column 8:\n    flow..x\n         ^"),
        (["--cel", "count > 1"], "there is no variable or function count"),
        (["--cel", "'abc"], "at column 1"),
        (["--cel", ""], "the end, at column 1"),
        (["--not", "--cel", "1 +"], "at column 4"),
        (["--cel", f"'{'x' * 10_000}' == ''"], "longer than 10,000 characters"),
    ],
)
def test_options_that_are_wrong_say_how(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flow.count == 1", True),
        ("flow.count > 1", False),
        ("flow.src.namespace == 'shop' && flow.connection.dest_port in [80, 8080]", True),
        ("flow.policies.exists(one, one.name.startsWith('web-'))", True),
        ("has(flow.dialled) && flow.dialled.port == 80", True),
        ("has(flow.icmp)", False),
        ("flow.src.labels['app'] == 'web'", True),
        ("timestamp(flow.timestamp) > timestamp('2026-11-24T00:00:00Z')", True),
        ("flow.icmp.type == 8", None),
        ("flow.count", None),
        ("flow.src.namespace > 3", None),
        ("flow.nothing || true", True),
    ],
)
def test_an_expression_is_true_false_or_cannot_be_evaluated(text: str, expected: bool | None) -> None:
    assert CelExpression(text).holds(make_value()) is expected
    value, flow = make_value(), make_flow()
    assert Choice(Filters(), expressions=[CelExpression(text)]).match(flow, value) is (expected is True)
    assert Choice(Filters(), excluding=[CelExpression(text)]).match(flow, value) is (expected is False)


def test_an_expression_that_could_not_be_evaluated_is_reported_once() -> None:
    choice = Choice(Filters(), expressions=[CelExpression("flow.icmp.type == 8")])
    assert list(choice.problems()) == []
    for _ in range(3):
        choice.match(make_flow(), make_value())
    (said,) = choice.problems()
    assert "which are not shown. Of the first: it has no 'icmp'" in said


def test_an_expression_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cel", None)
    with pytest.raises(ExpressionError, match=r"pip install '\.\[cel\]' in a clone"):
        CelExpression("true")


def test_columns_are_read_from_a_record() -> None:
    columns = read_columns("--fields", "time,id,verdict, src.workload,dest.labels.tier,service,src.zone,port,hour")
    assert row_of(columns, make_flow()) == [
        "2026-11-24T16:27:28.838398086Z", "r-1", "allow", "Deployment/web", "1", "back/api", "", "8080",
        "2026-11-24T16:00",
    ]  # fmt: skip
    with pytest.raises(ColumnError, match="differs from record"):
        read_columns("--by", "time", counted=True)


def shown(flow: Any, layout: Any) -> list[str]:
    out = io.StringIO()
    FlowTable(Console(file=out, highlight=False), layout).write(Shown(flow, b""))
    return out.getvalue().splitlines()


def test_chosen_columns_are_a_table() -> None:
    heading, line = shown(make_flow(), layout_of(read_columns("--fields", "src,port,src.zone")))
    assert heading.split() == ["SRC", "PORT", "SRC.ZONE"]
    assert line.split() == ["shop/web-0", "8080", "-"]


def test_a_wide_table_has_addresses_and_ids_and_a_compact_one_is_narrow() -> None:
    heading, line = shown(make_flow(), WIDE)
    assert heading.split()[-3:] == ["REASON", "POLICIES", "ID"]
    for text in ("n1", "10.0.0.1:40000", "10.0.0.2:8080", "back/api", "policy", "shop/web-allow-api", "r-1"):
        assert text in line.split()
    _, line = shown(make_flow(connection=V6), WIDE)
    assert "[fd00::2]:8080" in line.split()
    heading, line = shown(make_flow(), COMPACT)
    assert heading.split() == ["TIME", "VERDICT", "FROM", "TO", "PORT"]
    assert len(line) <= 80


def test_a_text_that_a_terminal_would_obey_is_escaped() -> None:
    flow = make_flow(src={"pod_name": "a\x1b[2Jb", "namespace": "shop"})
    for layout in (None, WIDE, COMPACT, layout_of(read_columns("--fields", "src"))):
        assert "\x1b[2J" not in "".join(shown(flow, layout))


def counted(by: str, flows: Sequence[Any], most: int = 10) -> Counts:
    counts = Counts(read_columns("--by", by, counted=True), most)
    counts.add_all(orjson.loads(orjson.dumps([counts.row(flow) for flow in flows])))
    return counts


def test_records_are_counted_by_fields_the_most_first() -> None:
    denied = {"disposition": "deny", "count": 5, "timestamp": "2026-11-24T16:30:00.000000000Z"}
    counts = counted("verdict,port", [make_flow(), make_flow(**denied), make_flow(**denied)])
    assert [orjson.loads(line) for line in counts.objects()] == [
        {"verdict": "deny", "port": 8080, "records": 2, "count": 10, "first": denied["timestamp"],
         "last": denied["timestamp"]},
        {"verdict": "allow", "port": 8080, "records": 1, "count": 1, "first": RECORD["timestamp"],
         "last": RECORD["timestamp"]},
    ]  # fmt: skip
    out = io.StringIO()
    counts.write(Console(file=out, highlight=False, width=200))
    heading, first, second = out.getvalue().splitlines()
    assert heading.split() == ["RECORDS", "COUNT", "LAST", "VERDICT", "PORT"]
    assert first.split() == ["2", "10", "2026-11-24", "16:30:00", "deny", "8080"]
    assert second.split()[0] == "1"


def test_what_is_counted_is_bounded_and_the_rest_is_counted_together() -> None:
    counts = counted("src.pod", [make_flow(src={"pod_name": f"web-{n}", "namespace": "shop"}) for n in range(5)], 2)
    *kept, rest = [orjson.loads(line) for line in counts.objects()]
    assert [one["src.pod"] for one in kept] == ["web-0", "web-1"]
    assert (rest["src.pod"], rest["others"], rest["records"]) == (None, True, 3)


class Keyed(Values):
    """Partitions of records with keys, each a list; the partition of a record is that of its list."""

    def __init__(self, *keys: Sequence[str]) -> None:
        super().__init__()
        self.keys = keys
        self.narrowed: set[int] | None = None

    @property
    def partitions(self) -> range:
        return range(len(self.keys))

    def bounds(self) -> dict[int, tuple[int, int]]:
        return {partition: (0, len(keys)) for partition, keys in enumerate(self.keys)}

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        return dict.fromkeys(self.partitions, timestamp_ms)

    def start(self, offsets: Any) -> None:
        self.queue = [
            Record(partition, offset, self.keys[partition][offset].encode(), b"", 0)
            for partition, first in offsets.items()
            for offset in range(first, len(self.keys[partition]))
        ]

    def ended(self) -> frozenset[int]:
        return frozenset(self.partitions) - {record.partition for record in self.queue}

    def narrow(self, partitions: Any) -> None:
        self.narrowed = set(partitions)


def placed(partitions: int, *keys: str) -> list[list[str]]:
    """Return the keys of each partition."""
    return [[key for key in keys if partition_of(key.encode(), partitions) == one] for one in range(partitions)]


def test_only_the_partition_of_the_key_is_read() -> None:
    keys = [f"shop/web-{number}" for number in range(50)]
    topic = Keyed(*placed(4, *keys))
    assert narrow(topic, [b"shop/web-7"], None)
    assert topic.narrowed == {partition_of(b"shop/web-7", 4)}
    assert not narrow(Keyed(*placed(4, *keys)), None, None)
    assert not narrow(Keyed(keys), [b"shop/web-7"], None), "there is one partition only"


def test_all_partitions_are_read_if_keys_were_elsewhere_when_the_range_begins() -> None:
    before, after = placed(3, *[f"shop/web-{n}" for n in range(50)]), placed(4, *[f"shop/web-{n}" for n in range(50)])
    topic = Keyed(*(old + new for old, new in zip([*before, []], after, strict=True)))
    assert not narrow(topic, [b"shop/web-7"], None)
    assert topic.narrowed is None
    moved = Keyed(*([""] * 30 + new for new in after))
    assert narrow(moved, [b"shop/web-7"], 30), "records without a key may be anywhere"


@pytest.mark.parametrize("key", ["shop/web-0", "", "a", "ab", "abc", "abcd", "n1", "\u00fc\u20ac", "x" * 1000])
def test_the_partitioner_is_that_of_kafkas_other_clients(key: str) -> None:
    assert partition_of(key.encode(), 12) == (aiokafka.partitioner.murmur2(key.encode()) & 0x7FFFFFFF) % 12
