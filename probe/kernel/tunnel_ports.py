"""The UDP ports at which nodes unwrap packets, as the programs know them: a bit for each (``bpf/encapsulation.h``)."""

from __future__ import annotations

from collections.abc import Iterable

from probe.kernel.maps import Maps

_WORD_BITS = 64
_WORDS = 65536 // _WORD_BITS


def set_tunnel_ports(maps: Maps, ports: Iterable[int]) -> None:
    """Replace the ports. A port that stays is never absent meanwhile."""
    words = [0] * _WORDS
    for port in ports:
        words[port // _WORD_BITS] |= 1 << port % _WORD_BITS
    for number, word in enumerate(words):
        maps["tunnel_ports"].set(number.to_bytes(4, "little"), word.to_bytes(8, "little"))


def add_tunnel_ports(maps: Maps, ports: Iterable[int]) -> None:
    """Add ports; those that are there stay."""
    for port in ports:
        key = (port // _WORD_BITS).to_bytes(4, "little")
        value = maps["tunnel_ports"].get(key)
        word = 0 if value is None else int(value)
        maps["tunnel_ports"].set(key, (word | 1 << port % _WORD_BITS).to_bytes(8, "little"))
