"""Sorting of more records than fit into memory."""

from __future__ import annotations

from streams.observing.sorting import sort_values


def test_values_come_by_key_and_equal_keys_in_their_order() -> None:
    given = [(f"{number * 7919 % 41:02}", f'{{"n":{number}}}'.encode()) for number in range(500)]
    for max_bytes in (1 << 20, 2000, 1):
        assert list(sort_values(given, max_bytes)) == sorted(given, key=lambda pair: pair[0])
    assert list(sort_values([])) == []


def test_a_line_break_between_the_tokens_of_a_value_becomes_a_space() -> None:
    assert list(sort_values([("b", b'{"a":\n1}'), ("a", b"{}")], 1)) == [("a", b"{}"), ("b", b'{"a": 1}')]
