"""Tests of blocks with exceptions as prefixes, compared with the standard library's ipaddress for each address."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from enrich.model import IPBlock
from probe.policy.cidr_index import CidrIndex
from probe.policy.desired import host_key


@st.composite
def cidrs(draw: st.DrawFn, version: int) -> str:
    """Few different bits, so that blocks nest and meet."""
    bits, offset, base = (32, 24, 0x0A << 24) if version == 4 else (128, 120, 0xFD << 120)
    length = draw(st.sampled_from([0, 8, offset, offset + 1, offset + 2, offset + 4, bits - 1, bits]))
    address = base | draw(st.integers(0, 255))
    cls = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    return str(cls((address >> (bits - length) << (bits - length) if length else 0, length)))


@st.composite
def blocks(draw: st.DrawFn) -> IPBlock:
    version = draw(st.sampled_from([4, 6]))
    inside = ipaddress.ip_network(draw(cidrs(version)))
    holes = [ipaddress.ip_network(one) for one in draw(st.lists(cidrs(version), max_size=3))]
    return IPBlock(str(inside), tuple(str(hole) for hole in holes if _holds(inside, hole)))


def _holds(outer: object, inner: object) -> bool:
    """The API wants an exception strictly inside its block."""
    return inner != outer and inner.subnet_of(outer)  # type: ignore[attr-defined]


ADDRESS = st.one_of(
    st.integers(0, 255).map(lambda n: str(ipaddress.IPv4Address((0x0A << 24) | n))),
    st.integers(0, 255).map(lambda n: str(ipaddress.IPv6Address((0xFD << 120) | n))),
    st.sampled_from(["0.0.0.1", "255.255.255.255", "10.9.9.9", "::2", "2001:db8::1", "fd00::1:0:1"]),
)


@given(st.lists(blocks(), max_size=6, unique=True), st.lists(ADDRESS, min_size=1, max_size=12))
def test_an_address_is_in_the_blocks_that_hold_it(given_blocks: list[IPBlock], addresses: list[str]) -> None:
    terms = {block: number for number, block in enumerate(given_blocks)}
    found = CidrIndex(terms)
    for text in addresses:
        address = ipaddress.ip_address(text)
        wanted = {
            number
            for block, number in terms.items()
            if address in ipaddress.ip_network(block.cidr)
            and not any(address in ipaddress.ip_network(hole) for hole in block.excepts)
        }
        assert found.selectors_of(host_key(text)[0]) == wanted
        assert _longest_match(found, host_key(text)[0]) == wanted


def _longest_match(found: CidrIndex, address: bytes) -> frozenset[int]:
    """What the kernel's trie answers, from the entries alone."""
    number = int.from_bytes(address, "big")
    best = -1, frozenset[int]()
    for (prefix, length), terms in found.items():
        shift = 128 - length
        if number >> shift == int.from_bytes(prefix, "big") >> shift and length > best[0]:
            best = length, terms
    return best[1]
