"""Names a transaction that has not ended, and says who waits for it and how an administrator ends it.

Kafka shows a reader of committed records nothing that stands behind the first record of an open transaction, and gives
no member of a group its offsets while a transaction that has written some is open. A transaction stays open as long as
its producer's timeout allows, or for ever if Kafka has lost its marker: the commit or abort that ends it in each
partition. Kafka 4.3.1 may lose one if its only broker is killed in the middle of a commit. Clients say "timed out", or
nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

OFFSETS_TOPIC: Final = "__consumer_offsets"
_PLAIN: Final = re.compile(r"[\w.,:\[\]-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that has been open for long, in one partition."""

    topic: str
    partition: int | None
    """None: it is not known, because this user may not see the topic of offsets."""
    offset: int | None
    """Where it begins in the partition, which is the partition's last stable offset; None: as for the partition, or the
    first transaction that is open there is another group's."""
    since: float
    """Unix time."""
    is_exact: bool
    """Whether the time is that of the transaction's first record; otherwise it may be older."""
    group: str = ""
    """The group whose offsets wait for it; empty: records do."""

    def in_words(self, servers: str, now: float) -> str:
        """Return one sentence about who waits and since when, and one about what to do. ``servers``: of Kafka."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        waits = (
            f"the committed offsets of the group {self.group} cannot be read"
            if self.group
            else f"what is behind offset {self.offset} of {self.topic} [{self.partition}] cannot be read"
        )
        where = f" (in {self._place})" if self.group and self.partition is not None else ""
        return (
            f"{waits} since {since}{'' if self.is_exact else ' or earlier'} ({max(0.0, now - self.since):.0f} s), "
            f"because a transaction{where} has not ended: whoever reads committed records waits for it, and a restart "
            f"does not help. If its producer is gone, end it: {self._commands(servers)}"
        )

    @property
    def _place(self) -> str:
        return f"{self.topic} [{self.partition}]" + (f" from offset {self.offset}" if self.offset is not None else "")

    def _commands(self, servers: str) -> str:
        # The address is a setting, and somebody may paste the line into a shell.
        kafka = f"kafka-transactions.sh --bootstrap-server {servers if _PLAIN.fullmatch(servers) else 'SERVERS'}"
        if self.partition is not None and self.offset is not None:
            return f"{kafka} abort --topic {self.topic} --partition {self.partition} --start-offset {self.offset}"
        of = f"--topic {self.topic}" + ("" if self.partition is None else f" --partition {self.partition}")
        where = of if self.partition is not None else f"{of} --partition PARTITION"
        return f"{kafka} find-hanging {of} shows it, and {kafka} abort {where} --start-offset OFFSET ends it"


def partition_of_group(group: str, partitions: int) -> int:
    """Return in which partition of the topic of offsets Kafka keeps those of a group."""
    value = 0
    encoded = group.encode("utf-16-be", errors="surrogatepass")
    for high, low in zip(encoded[::2], encoded[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    # Java's hash is signed, and Kafka takes its absolute value; that of the least number is 0 there.
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return (0 if signed == -(1 << 31) else abs(signed)) % partitions
