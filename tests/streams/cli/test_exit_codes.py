"""What each command of `weir` exits with, and that it names the cause if Kafka cannot be reached."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from streams.cli.main import command
from tests.streams.cli.patience import give_up_after, with_routes

_DOCS = Path(__file__).parents[3] / "docs" / "operate.md"


def commands(group: click.Group, *names: str) -> Iterator[str]:
    """Yield each command with the names of its groups."""
    context = click.Context(group)
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        assert one is not None
        if isinstance(one, click.Group):
            yield from commands(one, *names, name)
        else:
            yield " ".join((*names, name))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands give up soon."""
    give_up_after(0.2, 0.2, monkeypatch)


@pytest.fixture
def nobody() -> str:
    """An address on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def run(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(command, arguments, env=env)


def test_the_table_of_exit_codes_has_every_command() -> None:
    found = re.findall(r"^\| `weir ([a-z ]+)` \|", _DOCS.read_text(), re.MULTILINE)
    assert sorted(found) == sorted(commands(command))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "arguments",
    [
        ("observe",), ("observe", "-f"), ("observe", "--since", "1h"), ("top",), ("status",), ("dead", "list"),
        ("dead", "show", "0/0"),
        ("dead", "redrive", "--dry-run"), ("alerts", "test", "--kafka"), ("routes", "groups", "ROUTES"),
    ],
)  # fmt: skip
def test_without_a_broker_each_command_exits_with_1_and_says_why(
    arguments: tuple[str, ...], nobody: str, tmp_path: Path
) -> None:
    result = run(*with_routes(arguments, tmp_path), env={"WEIR_KAFKA": nobody, "WEIR_CLUSTER": "c1"})
    assert result.exit_code == 1, result.output
    assert f"weir: {nobody} takes no connection (Connection refused): is a broker running there" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("observe", "--port", "x"), ("observe", "--since", "x"), ("status", "--since", "x"), ("dead", "show"),
        ("status", "--since", "2999-01-01T00:00:00Z"),
        ("dead", "list", "--nothing"),
        ("alerts", "check", "/nowhere"), ("alerts", "test", "/nowhere"), ("routes", "check", "/nowhere"),
        ("routes", "groups", "/nowhere"), ("routes", "try", "/nowhere"), ("explain", "x"), ("nothing",),
        ("verify", "--since", "x"), ("verify", "--delay", "x"), ("verify", "--until", "2d"),
        ("backtest",), ("backtest", "/nowhere"), ("backtest", "--delete", "Pod/a/b"), ("backtest", "--since", "x"),
    ],
)  # fmt: skip
def test_a_command_that_is_wrong_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [("observe",), ("status",), ("dead", "list"), ("alerts", "test", "--kafka")])
@pytest.mark.parametrize(
    "env",
    [{"WEIR_KAFKA_PROTOCOL": "smoke"}, {"WEIR_KAFKA_PROTOCOL": "sasl_ssl"}, {"WEIR_PARTITIONS": "1000000"}],
)
def test_a_setting_that_is_wrong_exits_with_2(arguments: tuple[str, ...], env: dict[str, str]) -> None:
    assert run(*arguments, env=env).exit_code == 2


@pytest.mark.parametrize("name", sorted(commands(command)))
def test_each_command_exits_with_130_after_ctrl_c(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_context: click.Context) -> None:
        raise KeyboardInterrupt

    found: click.Command = command
    for word in name.split():
        assert isinstance(found, click.Group)
        one = found.get_command(click.Context(found), word)
        assert one is not None
        found = one
    monkeypatch.setattr(found, "invoke", interrupt)
    monkeypatch.setattr(found, "params", [])
    assert run(*name.split()).exit_code == 130
