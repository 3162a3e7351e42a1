"""What clients may ask, and the words of commands that it means."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest

from streams.cli.mcp.arguments import MAX_POLICIES, ArgumentError
from streams.cli.mcp.tools import TOOLS, Tool


def _tool(name: str) -> Tool:
    return next(one for one in TOOLS if one.name == name)


def _words(name: str, **arguments: Any) -> tuple[str, ...]:
    return _tool(name).call(arguments).words


def _refused(name: str, **arguments: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        _tool(name).call(arguments)
    return str(caught.value)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_no_tool_takes_a_path_an_address_of_kafka_or_a_source(tool: Tool) -> None:
    allowed = set(tool.schema["properties"])
    assert not allowed & {"kafka", "topic-prefix", "source" if tool.name != "explain" else "", "output", "files", "cel"}
    paths = {
        one.name for one in tool.command.params if isinstance(one, click.Option) and isinstance(one.type, click.Path)
    }
    assert not allowed & {str(name) for name in paths}
    assert not {"-f", "follow"} & allowed
    # A value never stands alone: it could be an option.
    found = list(tool.words({"since": "--kafka=elsewhere", "pod": ["--follow"]}))
    assert all(word.startswith("--") for word in found[1:])


def test_arguments_become_options_and_ends_stand_behind_the_last_option() -> None:
    assert _words("observe", pod=["shop/web-0", "*"], port=[80], limit=5, **{"not": {"reason": ["node"]}}) == (
        "observe", "--output=json", "--pod=shop/web-0", "--pod=*", "--port=80", "--not", "--reason=node", "--last=5",
    )  # fmt: skip
    assert _words("observe", since="5m")[-1] == "--since=5m"
    assert _words("observe", **{"from": ["10.0.0.0/8"]}, by="reason")[2:] == ("--from=10.0.0.0/8", "--by=reason")
    assert _words("explain", source="--help", destination="--at=1h")[-3:] == ("--", "--help", "--at=1h")
    assert _words("explain", record_id="ring-1", since="2d")[1:] == ("--output=json", "--since=2d", "--", "ring-1")
    assert _words("explain", record_id="ring-1", suggest=True)[1:] == ("--output=json", "--suggest", "--", "ring-1")
    assert _words("explain", record_id="ring-1", suggest=False)[1:] == ("--output=json", "--", "ring-1")
    assert _words("backtest", delete=["NetworkPolicy/a/b"], replace=False)[1:] == (
        "--output=json", "--delete=NetworkPolicy/a/b",
    )  # fmt: skip
    call = _tool("backtest").call({"policies": "kind: NetworkPolicy", "replace": True})
    assert (call.words[2:], call.stdin) == (("--replace", "--", "-"), b"kind: NetworkPolicy")
    assert str(_tool("status").call({"without": ["a b"]})) == "weir status --output=json '--without=a b'"


def test_what_cannot_be_used_is_named() -> None:
    assert _refused("observe", verdict=["drop"]) == "verdict.0: 'drop' is not one of ['allow', 'deny', 'audit']"
    assert _refused("observe", port=[65536]) == "port.0: 65536 is greater than the maximum of 65535"
    assert _refused("observe", port=["80"]) == "port.0: '80' is not of type 'integer'"
    assert _refused("observe", limit=201) == "limit: 201 is greater than the maximum of 200"
    assert _refused("observe", pod=["a"] * 21) == "pod: has 21 values; 20 are allowed"
    assert _refused("observe", pod=["a" * 301]) == "pod.0: has 301 characters; 300 are allowed"
    assert _refused("observe", pod=["a\0"]) == "pod.0: must have no line breaks and no control characters"
    assert _refused("observe", pod=["a\n"]) == "pod.0: must have no line breaks and no control characters"
    assert _refused("observe", pod=["\ud800"]) == "pod: has characters that are not text"
    assert _refused("observe", **{"not": {"pods": ["a"]}}) == "not: there is no argument 'pods'; did you mean pod?"
    assert _refused("status", kafka="a:1").startswith("there is no argument 'kafka'; there are since, without, cluster")
    assert _refused("explain", source="a/b") == "destination missing: give source and destination, or a record_id"
    assert _refused("explain", record_id="r-1", source="a/b").startswith("record_id cannot be used with source")
    assert _refused("explain", source="a/b", destination="c/d:1", until="1h").startswith("until can only be used with")
    assert _refused("backtest", policies="a" * (MAX_POLICIES + 1)).startswith("policies: has 65,537 characters")
    # An error repeats what a client sent, without the characters that a terminal would obey.
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", _refused("observe", **{"\x1b[2J": 1}, pod=["\x1b"]))
