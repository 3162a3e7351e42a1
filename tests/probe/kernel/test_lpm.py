"""The prefix that encloses an address or a block."""

from __future__ import annotations

from enrich.wire.mapped_address import packed_address
from probe.kernel import entries
from probe.kernel.lpm import WORLD, PrefixTable


def _key(address: str, bits: int) -> bytes:
    return entries.address_key(packed_address(address), 96 + bits)


def test_the_longest_shorter_prefix_encloses_a_key() -> None:
    table = PrefixTable.from_entries({_key("10.0.0.0", 8): (1, 2), _key("10.1.0.0", 16): (2, 2)})
    assert table.enclosing(_key("10.1.2.3", 32)) == (2, 2)
    assert table.enclosing(_key("10.1.0.0", 16)) == (1, 2)
    assert table.enclosing(_key("10.0.0.0", 8)) == WORLD
    table.set(_key("10.1.0.0", 16), None)
    assert table.enclosing(_key("10.1.2.3", 32)) == (1, 2)
