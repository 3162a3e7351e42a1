"""The log's side of the account: records as the topic of flows has them, read as plain JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tests.custody.packets import ICMP, ICMPV6, SCTP, TCP, UDP, Tuple

_PROTOCOLS: Final = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMPV6, "sctp": SCTP}


@dataclass(frozen=True)
class Record:
    """One record. ``key`` has the identifier 0 for ICMP, because a record has none."""

    id: str
    key: Tuple
    direction: str
    passes: bool
    reason: str
    policies: frozenset[str]
    count: int
    at: int
    raw: Any

    def end(self, name: str) -> dict[str, Any]:
        """Return the end ``src`` or ``dest`` as the record has it."""
        found: dict[str, Any] = self.raw[name]
        return found

    def __str__(self) -> str:
        way = f"{self.key.source}:{self.key.source_port} -> {self.key.destination}:{self.key.destination_port}"
        return f"record {self.id} ({self.raw['disposition']} {self.reason} {self.direction} {way} at {self.at})"


def nanoseconds(text: str) -> int:
    """Return a timestamp of nine digits as nanoseconds."""
    whole, _, rest = text.removesuffix("Z").partition(".")
    seconds = int(datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000_000 + int(rest.ljust(9, "0") or 0)


def read_record(raw: dict[str, Any]) -> Record:
    """Read a record. Raises KeyError for one that has no addresses or another protocol than the script sends."""
    connection = raw["connection"]
    protocol = _PROTOCOLS[connection["protocol"]]
    ends = connection["src_ip"], connection["dest_ip"]
    if icmp := raw.get("icmp"):
        code = icmp["type"] << 8 | icmp["code"]
        key = Tuple(protocol, ends[0], 0, ends[1], code, is_error=icmp["type"] not in {8, 128})
    else:
        key = Tuple(protocol, ends[0], connection["src_port"], ends[1], connection["dest_port"])
    policies = raw["policies"] or raw["isolated_by"]
    return Record(
        raw["id"], key, connection["direction"], raw["disposition"] == "allow", raw["reason"],
        frozenset(policy["name"] for policy in policies), raw["count"], nanoseconds(raw["timestamp"]), raw,
    )  # fmt: skip


def distinct(records: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Return each record once, its repeats, and what is wrong with ids: two verdicts with one id, missing numbers."""
    found: dict[str, dict[str, Any]] = {}
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    repeats, problems = [], []
    for record in records:
        ring, _, number = record["id"].rpartition("-")
        if int(number) in numbers[ring]:
            repeats.append(record)
            if _verdict(record) != _verdict(found[record["id"]]):
                problems.append(f"two records have the id {record['id']} and differ")
        else:
            numbers[ring].add(int(number))
            found[record["id"]] = record
    for ring, seen in numbers.items():
        problems += [f"the log has no record {ring}-{number}" for number in range(max(seen)) if number not in seen]
    return list(found.values()), repeats, problems


def _verdict(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a repeat must have in common: everything but names, which another worker may know or not know."""
    return {name: value for name, value in record.items() if name not in {"src", "dest", "dialled"}}
