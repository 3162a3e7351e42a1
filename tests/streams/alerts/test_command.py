"""`weir alerts check` and `weir alerts test`, with their exit codes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from streams.cli.main import command
from tests.streams.alerts.makers import T0, flow, loss

FILE = """\
version: 1
disable: [host-scan, first-deny]
rules:
  - name: port-scan
    group_by: [src.name]
    above: {threshold: 5, window: 10s, distinct: [port]}
    resolve_after: 10s
    annotations: {summary: "{{ src.name }} tried {{ count }} ports"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.yaml"
    path.write_text(FILE)
    return path


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(command, ["alerts", *arguments], input=stdin)


def lines(*records: object) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


SCAN = [flow(T0 + port, port=port) for port in range(5)]


def test_check_lists_the_rules_in_force(file: Path) -> None:
    done = run("check", str(file))
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"{file}: valid: 4 rules in force, 0 outputs",
        "  deny-burst: warning (built-in)",
        "  denied-after-change: warning (built-in)",
        "  pipeline-loss: critical (built-in)",
        "  port-scan: warning (replaces the built-in rule)",
        "  host-scan: disabled",
        "  first-deny: disabled",
    ]


def test_check_of_an_invalid_or_missing_file_exits_2(file: Path) -> None:
    file.write_text(FILE.replace("distinct", "distinkt"))
    done = run("check", str(file))
    said = f"{file}:6: rules[0].above.distinkt: there is no such field; did you mean distinct?\n"
    assert (done.exit_code, done.stderr) == (2, said)
    assert run("check", "/no/such").exit_code == 2


def test_backtest_shows_when_alerts_would_have_fired_and_resolved(file: Path) -> None:
    # In reverse order, with a repeat and an allowed connection, which are ignored.
    allow = flow(T0, port=99, disposition="allow")
    done = run("test", str(file), stdin=lines(*reversed(SCAN), SCAN[0], allow))
    assert done.exit_code == 0
    fired, resolved = done.stdout.splitlines()
    assert fired == (
        "2026-09-21T14:13:25.000Z  firing    port-scan  cluster=c1, src.name=shop/Deployment/web  "
        "shop/Deployment/web tried 5 ports"
    )
    assert resolved.split()[:3] == ["2026-09-21T14:13:46.000Z", "resolved", "port-scan"]
    assert done.stderr.splitlines() == [
        "3 rules over 5 records: 1 alerts fired",
        "skipped, because records do not contain changes of policies: denied-after-change",
    ]


def test_backtest_reads_a_file_and_writes_json(file: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.write_bytes(lines(*SCAN, loss(T0)))
    done = run("test", str(file), "--records", str(records), "-o", "json")
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [(one["rule"], one["status"]) for one in found] == [
        ("pipeline-loss", "firing"), ("port-scan", "firing"), ("port-scan", "resolved"), ("pipeline-loss", "resolved"),
    ]  # fmt: skip


def test_backtest_without_a_file_runs_the_built_in_rules() -> None:
    done = run("test", stdin=lines(*SCAN))
    assert done.exit_code == 0
    assert [line.split()[1:3] for line in done.stdout.splitlines()] == [["firing", "first-deny"],
                                                                       ["resolved", "first-deny"]]  # fmt: skip


@pytest.mark.parametrize("junk", [b"{}\n", b"no\n", b"[1]\n", b'{"connection": 1, "id": "a", "disposition": "deny"}\n'])
def test_an_invalid_record_exits_2_with_its_number(file: Path, junk: bytes) -> None:
    done = run("test", str(file), stdin=lines(SCAN[0]) + junk)
    assert done.exit_code == 2
    assert done.stderr.startswith("record 2 is invalid: ")


def test_kafka_and_a_file_cannot_be_used_together(file: Path) -> None:
    assert run("test", str(file), "--kafka", "--records", str(file)).exit_code == 2
