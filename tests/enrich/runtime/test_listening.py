"""The addresses that services listen on."""

from __future__ import annotations

from enrich.runtime.listening import is_loopback, split_address


def test_a_name_is_not_a_loopback_address() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "127.0.0.1.nip.io", "::ffff:10.0.0.1")))  # noqa: S104 - not bound here


def test_an_address_is_split_at_its_last_colon() -> None:
    assert split_address("[::1]:9700") == ("::1", 9700)
    assert split_address(":0") == split_address("0") == ("", 0)
    assert split_address("localhost:65535") == ("localhost", 65535)
    for text in ("localhost", "localhost:", "localhost:http", "localhost:65536", "localhost:\u00b2", "::1:-1"):
        assert split_address(text) is None, text
