"""Entries as bytes, compared with the numpy twins of the kernel's structs."""

from __future__ import annotations

import numpy as np

from probe.kernel import entries
from probe.kernel.layout import ADDRESS_KEY, ANSWER, PEER, PORT_KEY, ROW, ROW_KEY


def test_entries_are_laid_out_as_the_dtypes_say() -> None:
    address = bytes(range(16))
    key = np.frombuffer(entries.address_key(address, 97), ADDRESS_KEY)[0]
    assert (key["prefix"], key["address"].tobytes()) == (97, address)
    assert entries.prefix_of(entries.address_key(address, 97)) == (97, int.from_bytes(address, "big"))
    peer = np.frombuffer(entries.peer((7, 1), (8, 2)), PEER)[0]
    assert (peer["identity"].tolist(), peer["kind"].tolist()) == ([7, 8], [1, 2])
    assert [entries.peer_on(peer.tobytes(), side) for side in (0, 1)] == [(7, 1), (8, 2)]
    row_key = np.frombuffer(entries.row_key(1, 0, 3), ROW_KEY)[0]
    assert (row_key["set"], row_key["direction"], row_key["identity"]) == (1, 0, 3)
    assert np.frombuffer(entries.row(1, 2, 3, 4), ROW)[0].tolist()[:4] == (1, 2, 3, 4)
    port_key = np.frombuffer(entries.port_key(5, 6, 0x1234, 12), PORT_KEY)[0]
    assert port_key.tolist() == (52, 5, 6, 0x1234, 0)
    answer = np.frombuffer(entries.answer(1, 2, 3), ANSWER)[0]
    assert (answer["verdict"], answer["reason"], answer["rule"]) == (1, 2, 3)
