"""The address of a view means what the options of `weir observe` mean, and a mistake has a place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from streams.cli.conditions import _CONDITIONS
from streams.web.query import FIELDS, QueryError, read_query
from tests.streams.web.records import make_flow

NOW = datetime(2026, 11, 30, 3, tzinfo=UTC)


def is_shown(address: list[tuple[str, str]]) -> bool:
    return read_query(address, NOW).choice.match(make_flow(), b"")


def test_every_condition_of_observe_but_expressions_is_a_filter() -> None:
    @_apply_all
    def command() -> None: ...

    options = {param.name: param.opts for param in command.__click_params__}  # type: ignore[attr-defined]
    conditions = {name for name in options if not name.startswith("not_")} - {"expressions", "_not"}
    assert set(FIELDS.values()) == conditions
    assert all(f"--{name}" in options[field] for name, field in FIELDS.items())


def _apply_all(function: object) -> object:
    for add in _CONDITIONS:
        function = add(function)  # type: ignore[type-var]
    return function


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ([], True),
        ([("namespace", "shop")], True),
        ([("namespace", "bank")], False),
        ([("namespace", "bank"), ("namespace", "sh*")], True),
        ([("verdict", "DENY")], False),
        ([("verdict", "allow"), ("port", "8080")], True),
        ([("not.port", "8080")], False),
        ([("not.port", "53")], True),
        ([("from", "10.0.0.0/8"), ("to", "shop/api-0")], True),
        ([("label", "app=web")], True),
        ([("reason", "default deny")], False),
        ([("namespace", " "), ("pod", "")], True),
    ],
)
def test_filters_choose(address: list[tuple[str, str]], shown: bool) -> None:
    assert is_shown(address) is shown


@pytest.mark.parametrize(
    ("address", "field", "said"),
    [
        ([("namespace", "shop/web")], "namespace", "--pod"),
        ([("not.reason", "defualt_deny")], "not.reason", "did you mean default_deny"),
        ([("port", "http")], "port", "65535"),
        ([("port", "70000")], "port", "65535"),
        ([("port", "٣")], "port", "65535"),
        ([("verdict", "drop")], "verdict", "allow, deny, audit"),
        ([("cidr", "10.0.0.300")], "cidr", "10.0.0.300"),
        ([("namespaces", "shop")], "namespaces", "did you mean namespace"),
        ([("cel", "true")], "cel", "no filter"),
        ([("pod", "x" * 400)], "pod", "300"),
        ([("pod", "x")] * 200, "", "100"),
        ([("since", "tomorrow")], "since", "neither"),
        ([("since", "2027-01-01")], "since", "future"),
        ([("since", "1h"), ("until", "2h")], "since", "not before"),
        ([("until", "1h")], "until", "beginning"),
        ([("port", "80"), ("protocol", "icmp")], "", "ICMP has no ports"),
    ],
)
def test_a_mistake_is_said_at_its_field(address: list[tuple[str, str]], field: str, said: str) -> None:
    with pytest.raises(QueryError, match=said) as caught:
        read_query(address, NOW)
    assert caught.value.field == field


def test_times_make_a_window() -> None:
    window = read_query([("since", "1h"), ("until", "30m")], NOW).window
    assert window is not None
    assert (window.since.hour, window.since.minute) == (2, 0)
    assert window.until == datetime(2026, 11, 30, 2, 30, tzinfo=UTC)
    assert read_query([], NOW).window is None
