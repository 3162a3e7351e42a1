"""What a run has left on Kafka: records, what was in force when, and what `weir status` says of both nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import Message

from enrich.wire.batch import Batch
from tests.custody.script import NODES
from tests.kafka.site import Site

_MISSING_S: Final = 90.0
"""When nothing more has come to a topic for so long, what is not there is missing, and the account says so. A worker
on a busy machine may be minutes behind, with a Kafka that has just started."""
_PATIENCE_S: Final = 900.0


def read_flows(site: Site, batches: Sequence[Batch]) -> tuple[list[dict[str, Any]], list[str]]:
    """Read all records; return them, and what is wrong with their number. How many there are to be, the raw topic
    knows; what is in them, the account."""
    ids = {f"{batch.header.ring}-{number}" for batch in batches for number in batch.numbers().tolist()}
    seen: set[str] = set()
    records: list[dict[str, Any]] = []
    deadline = time.monotonic() + _MISSING_S

    def enough(found: list[Message]) -> bool:
        nonlocal deadline
        if len(found) > len(records):
            deadline = time.monotonic() + _MISSING_S
        for message in found[len(records) :]:
            records.append(json.loads(message.value()))
            seen.add(records[-1]["id"])
        return seen >= ids or time.monotonic() > deadline

    enough(site.read("flows", enough, _PATIENCE_S))
    missing = len(ids - seen)
    return records, [f"{missing} verdicts on the raw topic have no record"] if missing else []


def read_policies(site: Site, batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """Read what the status topic says about epochs, once it has said all that probes have."""
    headers = [batch.header for batch in batches]
    expected = {(one.ring, made.epoch) for one in headers if one.tally for made in one.tally.in_force}
    records: list[dict[str, Any]] = []
    read, deadline = 0, time.monotonic() + _MISSING_S

    def enough(found: list[Message]) -> bool:
        nonlocal read
        made = (json.loads(message.value()) for message in found[read:])
        records.extend(one for one in made if one["type"] == "policies")
        read = len(found)
        return expected <= {(one["ring"], one["epoch"]) for one in records} or time.monotonic() > deadline

    enough(site.read("status", enough, 2 * _MISSING_S))
    return records


def status_problems(site: Site) -> list[str]:
    """Return what `weir status` says does not add up: each node, with all of its verdicts."""
    command = (sys.executable, "-m", "streams.cli.main", "status", "--since", "2h", "-o", "json")
    done = subprocess.run(command, env=site.env(), capture_output=True, text=True, check=False)
    if done.returncode not in {0, 1}:
        return [f"weir status ended with {done.returncode}: {done.stderr}"]
    shown = json.loads(done.stdout)
    missing = set(NODES) - {one["node"] for one in shown["nodes"]}
    found = [f"weir status: {one['text']}" for one in shown["problems"] if one["stage"] != "silence"]
    return found + [f"weir status does not know {node}" for node in missing]
