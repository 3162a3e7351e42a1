"""What the status topic says is missing among the flows, as Hubble's events about lost ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from enrich.wire.bounds import Cluster, Count, Node
from streams.hubble import words
from streams.hubble.messages import message
from streams.kafka.ranges import Reader, read_range
from streams.kafka.records import Record
from streams.observing.observe import Window, unix_ms

_RESPONSE: Final = message("GetFlowsResponse")
_MAX_LOST: Final = (1 << 64) - 1
_MAX_PLACES: Final = 10_000
"""Nodes and kinds of losses of which a past is summed up; records of further ones are passed over."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """A status record about verdicts of which there is no flow."""

    type: Literal["lost", "gap", "gap_unknown", "cut"]
    cluster: Cluster
    node: Node
    verdicts: Count
    by: str = ""
    """What cuts: only a limit leaves out what was to be logged."""

    @property
    def source(self) -> int:
        """Where Hubble would have lost them: in a full buffer, or in a queue that takes no more."""
        return words.OBSERVER_EVENTS_QUEUE if self.type == "cut" else words.HUBBLE_RING_BUFFER


_decode: Final = msgspec.json.Decoder(Loss).decode
_MARKS: Final = (b'"lost"', b'"gap"', b'"gap_unknown"', b'"cut"')


def read_loss(value: bytes, cluster: str) -> Loss | None:
    """Return what a status record says was lost in a cluster (empty: any); None if it is about something else."""
    if not any(mark in value for mark in _MARKS):
        return None
    try:
        found = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    is_meant = found.verdicts and (found.type != "cut" or found.by == "limit") and cluster in {"", found.cluster}
    return found if is_meant else None


def lost_response(node: str, source: int, verdicts: int, first_ms: int, last_ms: int) -> Any:
    """Return the answer that says that flows of a node are missing."""
    made = _RESPONSE(node_name=node)
    # A sum of what anybody may have written to the topic can be more than the field holds.
    made.lost_events.source, made.lost_events.num_events_lost = source, min(verdicts, _MAX_LOST)
    for timestamp, ms in ((made.lost_events.first, first_ms), (made.lost_events.last, last_ms), (made.time, last_ms)):
        timestamp.seconds, timestamp.nanos = ms // 1000, ms % 1000 * 1_000_000
    return made


def past_losses(reader: Reader, ends: Mapping[int, int], window: Window, cluster: str) -> Iterator[Any]:
    """Yield an answer for each node and kind of loss of a window: how many, first and last."""
    found: dict[tuple[str, int], tuple[int, int, int]] = {}
    since_ms, until_ms = unix_ms(window.since), None if window.until is None else unix_ms(window.until)
    for record in read_range(reader, reader.at_time(since_ms), ends, window.read_until_ms):
        loss = read_loss(record.value, cluster)
        # The times in a partition do not only rise.
        is_later = until_ms is not None and record.timestamp_ms >= until_ms
        if loss is None or is_later or record.timestamp_ms < since_ms:
            continue
        place = (loss.node, loss.source)
        before = found.get(place, (0, record.timestamp_ms, 0))
        if place in found or len(found) < _MAX_PLACES:
            found[place] = (
                before[0] + loss.verdicts, min(before[1], record.timestamp_ms), max(before[2], record.timestamp_ms),
            )  # fmt: skip
    for (node, source), (verdicts, first_ms, last_ms) in sorted(found.items()):
        yield lost_response(node, source, verdicts, first_ms, last_ms)


def new_loss(record: Record, cluster: str) -> Any | None:
    """Return the answer about a status record that has just come; None if it is not about a loss."""
    loss = read_loss(record.value, cluster)
    if loss is None:
        return None
    return lost_response(loss.node, loss.source, loss.verdicts, record.timestamp_ms, record.timestamp_ms)
