"""What reads the journal does with a record of it."""

from __future__ import annotations

import orjson

from enrich.model import Node, Policy, Service
from enrich.policy.matching import block_matches
from enrich.wire.journal import (
    GAP,
    JournalEntry,
    JournalError,
    decode_entry,
    encode_entry,
    state_of,
)
from tests.enrich.wire.test_journal import PROFILE, STATES, entry_of
from tests.fuzz.reader import Reader


class Journal(Reader):
    """An entry is refused by JournalError, or its state can be used, and encoded as it was."""

    good = (
        *(encode_entry(entry_of(made, resource_version="7", changed_by="kubectl")) for made in (*STATES, PROFILE)),
        encode_entry(JournalEntry(cluster="c1", kind=GAP, seen_ns=9, since_ns=4)),
        encode_entry(JournalEntry(cluster="c1", kind="Node", name="n1", seen_ns=9, refused="too large")),
        encode_entry(
            JournalEntry(cluster="c1", kind="NetworkPolicy", namespace="shop", name="db", seen_ns=9, gone=True)
        ),
    )

    def __call__(self, value: bytes) -> None:
        try:
            entry = decode_entry(value, _key_of(value))
        except JournalError:
            return
        made = state_of(entry)
        if made is None:
            return
        again = entry_of(made, cluster=entry.cluster)
        assert state_of(decode_entry(encode_entry(again), again.key)) == made
        if isinstance(made, Policy):
            for rule in (*(made.ingress or ()), *(made.egress or ())):
                for block in (peer.ip_block for peer in rule.peers if peer.ip_block):
                    block_matches(block, "10.0.0.1")
        if isinstance(made, Node | Service):
            assert all(isinstance(one, str) for one in (made.ips if isinstance(made, Node) else made.addresses))


def _key_of(value: bytes) -> bytes:
    """Return the key that the entry has, as a writer that lies would give it."""
    try:
        found = orjson.loads(value)
        return "/".join(str(found.get(name, "")) for name in ("cluster", "kind", "namespace", "name")).encode()
    except (ValueError, AttributeError, RecursionError):
        return b""
