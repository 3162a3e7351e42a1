"""Says whether readers of committed records wait for a transaction that does not end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from streams.cli.doctor.finding import Finding, ok, problem, warning
from streams.kafka.connection import Connection
from streams.kafka.lasting_transactions import lasting_transactions
from streams.settings import Settings

_ABOUT: Final = "transactions"
_LONG_S: Final = 60.0
"""No transaction of ours lasts longer: the longest timeout of our producers is 40 s."""
_MAX_SHOWN: Final = 10


def transactions(connection: Connection, settings: Settings) -> Iterator[Finding]:
    """Look at all topics and groups of ours. Raises ReadError."""
    found = lasting_transactions(connection, [topic.name for topic in settings.topics], f"{settings.prefix}.")
    now, servers = time.time(), connection["bootstrap.servers"]
    for one in found.transactions[:_MAX_SHOWN]:
        text = one.in_words(servers, now)
        if one.is_exact and now - one.since < _LONG_S:
            # It may be that of a worker that was killed just now.
            yield warning(_ABOUT, f"{text}. It may end by itself: look again in {_LONG_S:.0f} s")
        else:
            yield problem(_ABOUT, text)
    if len(found.transactions) > _MAX_SHOWN:
        yield problem(_ABOUT, f"and {len(found.transactions) - _MAX_SHOWN} more")
    if not found.transactions:
        yield ok(_ABOUT, f"none holds back records of {found.topics} topics, or offsets of {found.groups} groups")
    if found.groups_left_out:
        yield warning(_ABOUT, f"{found.groups_left_out} more groups were not looked at")
