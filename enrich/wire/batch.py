"""The wire: rows of verdicts, and the batch of rows that is one Kafka record.

A row is ``struct verdict`` of ``bpf/event.h``; :data:`VERDICT` is its twin. A batch is a JSON header, one
newline (JSON as we write it holds none), then the rows as they lay in the ring buffer. The header makes a batch
stand alone: no reader needs another topic or the sender's memory to name what its rows refer to.

Nothing here looks at a single row in Python; a batch is an array.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec
import numpy as np
import orjson

VERSION: Final = 1
"""Of the batch format. A reader takes this one only; keys may be added without a new number."""

VERDICT: Final = np.dtype(
    [
        ("time_ns", "<u8"),
        ("source", "u1", (16,)),
        ("destination", "u1", (16,)),
        ("dialled", "u1", (16,)),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("dialled_port", "<u2"),
        ("protocol", "u1"),
        ("tcp_flags", "u1"),
        ("endpoint", "<u4"),
        ("identity", "<u4"),
        ("rule", "<u4"),
        ("count", "<u4"),
        ("span_ms", "<u4"),
        ("verdict", "u1"),
        ("reason", "u1"),
        ("flags", "u1"),
        ("padding", "u1"),
    ]
)
"""``struct verdict``, 88 bytes, little endian; see ``bpf/event.h`` for the meaning of each field."""

INGRESS: Final = 0x80
"""Bit of ``verdict``: the packet was on its way into the pod."""

AGGREGATED: Final = 0x01
"""Bit of ``flags``: a flood's row, which counts packets and has no addresses."""


class Verdict(enum.IntEnum):
    """What was done with the packets of a row (``verdict`` without its direction bit)."""

    ALLOW = 1
    DENY = 2
    AUDIT = 3


class Reason(enum.IntEnum):
    """Why; ``name.lower()`` is what a record says."""

    UNKNOWN = 0
    NO_POLICY = 1
    POLICY = 2
    DEFAULT_DENY = 3
    EXPLICIT_DENY = 4
    NODE = 5
    SELF = 6
    SPOOFED = 7
    UNPARSABLE = 8
    FRAGMENT = 9
    NOT_READY = 10
    ADOPTED = 11
    FORBIDDEN_ND = 12
    MAP_FULL = 13
    NO_ORIGIN = 14


class EndpointRef(msgspec.Struct, frozen=True):
    """The local pod behind an endpoint number."""

    namespace: str
    pod: str
    uid: str = ""


class PolicyRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """One policy behind a rule number, and which of its rules (index into ingress or egress), if one did it."""

    kind: str
    namespace: str
    name: str
    rule: int | None = None


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """The header of a batch. Unknown keys are ignored; readers are upgraded before probes."""

    v: int
    """Version of the format, :data:`VERSION`."""
    cluster: str
    """UID of the namespace kube-system, or what the setting says."""
    node: str
    ring: str
    """Random id of the ring buffer that the rows came out of."""
    first: int
    """Number of the first row: its position in the ring divided by the stride. ``(ring, number)`` is a row's name."""
    verdicts: int
    verdict_bytes: int
    """Bytes a row, at least 88; a reader uses the part that it knows."""
    clock: int
    """CLOCK_REALTIME - CLOCK_MONOTONIC in ns, when the batch was made."""
    endpoints: dict[str, EndpointRef] = {}
    """Endpoint number (decimal) to pod, for the numbers in these rows."""
    rules: dict[str, list[PolicyRef]] = {}
    """Rule number (decimal) to policies, for the numbers in these rows."""
    lost: dict[str, tuple[int, int]] = {}
    """For each reason the rows lost since the last batch, and in all: in the life of what counts them, which is the
    ring's for what the kernel lost, the spool's for what was lost behind it."""
    kept: list[tuple[int, int]] | None = None
    """Of a batch that the full spool thinned: runs ``[number, verdicts]`` that it kept; ``first`` is the first kept."""

    @property
    def key(self) -> bytes:
        """The Kafka key: one ring is one key and one order."""
        return f"{self.cluster}/{self.node}/{self.ring}".encode()


class Batch(msgspec.Struct, frozen=True):
    """A decoded batch: the header, and ``rows`` as a :data:`VERDICT` array that views the message's bytes."""

    header: Header
    verdicts: np.ndarray[Any, np.dtype[np.void]]
    picked: np.ndarray[Any, np.dtype[np.uint64]] | None = None
    """The numbers of the rows, where they are not all that the header tells of."""

    def pick(self, verdicts: np.ndarray[Any, Any]) -> Batch:
        """A part of it: those rows, by a mask or by their places."""
        return Batch(self.header, self.verdicts[verdicts], self.numbers()[verdicts])

    def encode(self) -> bytes:
        """The Kafka value of what is picked: as a batch of which no more was kept."""
        numbers = self.numbers()
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 2) != 1)
        kept = [(int(run[0]), len(run)) for run in np.split(numbers, starts[1:])]
        header = msgspec.structs.replace(
            self.header, first=kept[0][0], verdicts=len(self.verdicts), verdict_bytes=VERDICT.itemsize, kept=kept
        )
        return encode_batch(header, np.ascontiguousarray(self.verdicts))

    def numbers(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """The rows' numbers, one a row."""
        header = self.header
        if self.picked is not None:
            return self.picked
        if header.kept is None:
            return np.arange(header.first, header.first + header.verdicts, dtype=np.uint64)
        return np.concatenate(
            [np.arange(first, first + verdicts, dtype=np.uint64) for first, verdicts in header.kept]
            or [np.empty(0, np.uint64)]
        )


class BatchError(ValueError):
    """The bytes are no batch that this reader takes; the message says why, ``reason`` in one word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


_decode_header = msgspec.json.Decoder(Header).decode
_OWN_BYTES: Final = VERDICT.itemsize


def encode_batch(header: Header, verdicts: np.ndarray[Any, np.dtype[np.void]]) -> bytes:
    """The Kafka value of a batch. ``rows`` is a contiguous :data:`VERDICT` array of ``header.rows`` rows."""
    return orjson.dumps(msgspec.to_builtins(header)) + b"\n" + verdicts.tobytes()


def decode_batch(value: bytes) -> Batch:
    """The batch in a Kafka value. Raises :class:`BatchError` for anything that is not whole and of this version."""
    end = value.find(b"\n")
    if end < 0:
        raise BatchError("no_header", "no newline ends the header")
    try:
        header = _decode_header(value[:end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_header(value[:end], error) from error
    if header.v != VERSION:
        raise BatchError("unknown_version", f"version {header.v}, this reader takes {VERSION}")
    _check(header, len(value) - end - 1)
    body = np.frombuffer(value, "u1", offset=end + 1)
    if header.verdict_bytes != _OWN_BYTES:
        # A newer sender's rows are longer: their head is the part that is known here.
        body = np.ascontiguousarray(body.reshape(header.verdicts, header.verdict_bytes)[:, :_OWN_BYTES]).ravel()
    return Batch(header, body.view(VERDICT))


def _bad_header(text: bytes, error: Exception) -> BatchError:
    """A header of another version may well look otherwise: then that is what is wrong with it."""
    try:
        version = msgspec.json.decode(text).get("v", VERSION)
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError, RecursionError):
        return BatchError("bad_header", f"the header is no JSON object: {error}")
    if version != VERSION:
        return BatchError("unknown_version", f"version {version!r}, this reader takes {VERSION}")
    return BatchError("bad_header", str(error))


def _check(header: Header, body: int) -> None:
    if header.verdicts < 0 or header.first < 0 or header.first + header.verdicts >= 1 << 63:
        raise BatchError("bad_header", f"first {header.first}, verdicts {header.verdicts}")
    if abs(header.clock) >= 1 << 62:
        raise BatchError("bad_header", f"clock {header.clock}")
    if header.verdict_bytes < _OWN_BYTES:
        raise BatchError("bad_header", f"verdict_bytes {header.verdict_bytes}, at least {_OWN_BYTES}")
    if body != header.verdicts * header.verdict_bytes:
        raise BatchError(
            "wrong_length", f"{body} bytes of verdicts, {header.verdicts * header.verdict_bytes} announced"
        )
    if header.kept is not None:
        _check_kept(header, header.kept)


def _check_kept(header: Header, kept: list[tuple[int, int]]) -> None:
    """Runs in rising order that add up to the rows, the first where the header says."""
    if sum(verdicts for _, verdicts in kept) != header.verdicts:
        raise BatchError("bad_header", "kept does not add up to verdicts")
    number = header.first
    for first, verdicts in kept:
        if verdicts < 1 or first < number or first + verdicts >= 1 << 63:
            raise BatchError("bad_header", f"kept runs of verdicts must rise from first, not {first}, {verdicts}")
        number = first + verdicts
