"""A value that is not a number is refused by every option that takes one."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from streams.cli.main import command


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "many"])
@pytest.mark.parametrize(
    "words",
    [
        ["size", "--nodes", "1", "--pods", "1", "--connections"], ["doctor", "--timeout"], ["mcp", "--timeout"],
        ["top", "--every"], ["explain", "a/b", "a/c:80", "--source", "manifests:nowhere", "--timeout"],
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(words: list[str], value: str) -> None:
    result = CliRunner().invoke(command, [*words, value], env={"WEIR_SOURCE": "manifests:nowhere"})
    assert (result.exit_code, f"Invalid value for '{words[-1]}'" in result.stderr) == (2, True), result.output
