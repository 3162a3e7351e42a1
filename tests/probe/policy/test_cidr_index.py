"""Tests of blocks with exceptions as prefixes, compared with the standard library's ipaddress for each address."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from enrich.model import IPBlock
from probe.policy.cidr_index import CidrIndex, hosts_inside, lists_of_blocks
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


@given(st.lists(st.frozensets(blocks(), max_size=4), max_size=4), st.lists(ADDRESS, min_size=1, max_size=12))
def test_an_address_is_in_the_lists_whose_blocks_contain_it(
    lists: list[frozenset[IPBlock]], addresses: list[str]
) -> None:
    index = CidrIndex(lists_of_blocks(dict(enumerate(lists))))
    for text in addresses:
        address = ipaddress.ip_address(text)
        wanted = {number for number, found in enumerate(lists) if any(_contains(block, address) for block in found)}
        assert index.lists_of(host_key(text)[0]) == wanted
        assert _longest_match(index, host_key(text)[0]) == wanted


def test_blocks_that_are_in_the_same_lists_have_equal_values() -> None:
    shared = frozenset(IPBlock(f"100.64.{n}.0/24") for n in range(200))
    one_more = IPBlock("100.65.0.0/24")
    lists = {1: shared, 2: shared, 3: shared | {one_more}}
    index = CidrIndex(lists_of_blocks(lists))
    assert set(index.prefixes.values()) == {frozenset({1, 2, 3}), frozenset({3})}
    assert len(index.prefixes) == 201


@given(st.lists(blocks(), max_size=4), st.lists(ADDRESS, max_size=12))
def test_hosts_inside_blocks_are_found(given_blocks: list[IPBlock], addresses: list[str]) -> None:
    wanted = {
        text
        for text in addresses
        if any(ipaddress.ip_address(text) in ipaddress.ip_network(block.cidr) for block in given_blocks)
    }
    found = hosts_inside(given_blocks, [host_key(text) for text in addresses])
    # Blocks of IPv6 that contain ::ffff:0:0/96 contain mapped IPv4 addresses: more are found than necessary.
    assert {host_key(text) for text in wanted} <= set(found)


def _contains(block: IPBlock, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    holes = (ipaddress.ip_network(hole) for hole in block.excepts)
    return address in ipaddress.ip_network(block.cidr) and not any(address in hole for hole in holes)


def _longest_match(index: CidrIndex, address: bytes) -> frozenset[int]:
    """What the kernel's trie answers, from the entries alone."""
    number = int.from_bytes(address, "big")
    best = -1, frozenset[int]()
    for (prefix, length), lists in index.prefixes.items():
        shift = 128 - length
        if number >> shift == int.from_bytes(prefix, "big") >> shift and length > best[0]:
            best = length, lists
    return best[1]
