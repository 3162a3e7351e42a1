"""The entries of nf_conntrack that pods opened or answer, on a node that has few entries, or many."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from netns import connects, listen, open_socket

from enrich.wire.mapped_address import packed_address
from probe.node import conntrack
from probe.node.conntrack import Conntrack, Ends, Tracked
from tests.kernel.rig import FAMILIES, Rig, both
from tests.kernel.tracking import tracking

pytestmark = [pytest.mark.kernel, pytest.mark.one_mode]


@pytest.fixture
def asking(rig: Rig) -> Iterator[Conntrack]:
    """Return the nf_conntrack of a node on which each pod of three has asked every other one."""
    pods = [both(rig, f"a/p{number}", number) for number in (1, 2, 3)]
    with tracking(rig.node), closing(Conntrack(rig.network)) as made:
        for family, (client, server) in itertools.product(FAMILIES, itertools.permutations(pods, 2)):
            with listen(server, family, 80):
                assert connects(client, server.address(family), 80)
            with open_socket(client, family, socket.SOCK_DGRAM) as here:
                here.sendto(b"x", (server.address(family), 53))
        yield made


Entry = tuple[int, Ends, Ends]


def read(asking: Conntrack, monkeypatch: pytest.MonkeyPatch, addresses: set[bytes]) -> tuple[set[Entry], int]:
    """Return the entries of these addresses, and how many times the kernel walked its table."""
    walks = []
    dump = asking._dump

    def counted(*arguments: Any, **named: Any) -> Iterator[Tracked]:
        walks.append(arguments)
        return dump(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(asking, "_dump", counted)
        # A connection may be closing meanwhile, so its state is left out.
        return {(found.protocol, found.original, found.reply) for found in asking.of(addresses)}, len(walks)


@pytest.mark.parametrize("addresses", [{"10.244.0.1"}, {"fd44::2"}, {"10.244.0.1", "10.244.0.2", "fd44::1", "fd44::2"}])
def test_few_entries_are_all_read_at_once_and_many_by_address(
    asking: Conntrack, monkeypatch: pytest.MonkeyPatch, addresses: set[str]
) -> None:
    ours = set(map(packed_address, addresses))
    few, walks = read(asking, monkeypatch, ours)
    assert walks == 1
    monkeypatch.setattr(conntrack, "_DECODED_IN_A_WALK", 0)
    many, walks = read(asking, monkeypatch, ours)
    assert walks == 2 * len(addresses)
    assert few == many
    assert {protocol for protocol, _, _ in few} == {6, 17}
    assert all(ours & {original.source, reply.source} for _, original, reply in few)
    # Each pod has asked two others and answers two; two pods have two of their connections in common.
    assert len(few) == {1: 2 * 4, 4: 2 * 2 * 6}[len(addresses)]
