"""Ports for servers of the demo and the tests: free ones, none that clients get, seldom the same for two callers."""

from __future__ import annotations

import socket

import pytest
from ports import free_port, free_ports


def test_all_of_them_are_free_and_below_those_of_clients() -> None:
    for number in (1, 9):
        first = free_ports(number)
        assert first >= 12_000
        assert first + number <= 30_000
        for port in range(first, first + number):
            socket.create_server(("127.0.0.1", port)).close()


def test_two_callers_seldom_get_the_same() -> None:
    assert len({free_port() for _ in range(50)}) > 40


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as used:
        monkeypatch.setattr("ports._FIRST", used.getsockname()[1])
        monkeypatch.setattr("ports._LAST", used.getsockname()[1])
        with pytest.raises(RuntimeError, match=r"no 1 free ports in a row on 127\.0\.0\.1"):
            free_port()
