"""The batch: some verdicts of one node, as one Kafka record.

THEORY OF OPERATION

A batch is a header in JSON, one newline, and the verdicts as the kernel wrote them, 88 bytes each (``struct verdict``
of ``bpf/event.h``; :data:`VERDICT` is its numpy twin)::

    {"v":1,"cluster":"c1","node":"n1","ring":"9f3c","first":5000,"verdicts":3,"verdict_bytes":88,
     "clock":1795890000000000000,"endpoints":{"7":{"namespace":"shop","pod":"web-1","uid":"..."}},
     "rules":{"12":[{"kind":"NetworkPolicy","namespace":"shop","name":"web","rule":0}]},"lost":{"ring_full":[0,40]}}
    <3 x 88 bytes>

1. The verdicts are numbers 5000, 5001 and 5002 of ring 9f3c. ``(ring, number)`` names a verdict for ever, even if it is
   sent again.
2. A verdict holds small numbers where a record has names. Its endpoint 7 is pod shop/web-1, and its rule 12 is the
   first rule of policy shop/web. The header explains every number that its verdicts use, so that a reader needs no
   other topic and nothing from the sender's memory.
3. A verdict has the kernel's monotonic time; ``clock`` added to it is the wall clock.
4. ``lost`` says that 40 verdicts of this ring were lost so far because the ring was full, none of them since the last
   batch.
5. When the probe's spool is full, it thins a batch out. With ``"kept":[[5000,1],[5002,1]]``, ``"verdicts":2`` and
   ``"removed":["spool_full",5000,3]``, number 5001 was dropped (:mod:`enrich.wire.numbering`).

A reader accepts version 1 only, ignores header keys that it does not know, and uses the first 88 bytes of longer
verdicts: readers are upgraded before probes. No code here looks at a single verdict; a batch is an array.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import orjson

from enrich.wire.bounds import Cluster, Count, LossReason, Node, Number, Offset, RingId, are_times
from enrich.wire.cuts import Cuts
from enrich.wire.ends import MAX_TEXT, Ends, RefusedEnds, decode_ends
from enrich.wire.numbering import Numbers, problem_of
from enrich.wire.references import EndpointRef as EndpointRef  # noqa: PLC0414 - modules import it from here
from enrich.wire.references import PolicyRef as PolicyRef  # noqa: PLC0414 - as above
from enrich.wire.tally import Tally

VERSION: Final = 1
"""The version of the batch format. Keys may be added to the header without a new version."""

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
"""``struct verdict``: 88 bytes, little endian. ``bpf/event.h`` explains each field."""

INGRESS: Final = 0x80
"""Bit of ``verdict`` that is set if the packet was on its way into the pod."""

AGGREGATED: Final = 0x01
"""Bit of ``flags`` that is set if the verdict counts packets of many connections, and so has no addresses."""

UNNAMED: Final = 0x02
"""Bit of ``flags`` that is set if the peer is surely not who has its address, which was forged."""

CUT: Final = 0x04
"""Bit of ``flags`` that is set for a denial that is not logged, and that alerts count nevertheless."""


class Verdict(enum.IntEnum):
    """The decision about the packets that a verdict counts (``verdict`` without its direction bit)."""

    ALLOW = 1
    DENY = 2
    AUDIT = 3


class Reason(enum.IntEnum):
    """Why the kernel decided as it did. A record has the name in lower case."""

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
    ENCAPSULATION = 15
    UNKNOWN_FLOW = 16
    POLICY_INCOMPLETE = 17


_Losses = Annotated[dict[LossReason, tuple[Count, Count]], msgspec.Meta(max_length=64)]


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """The header of a batch. Unknown keys are ignored."""

    v: int
    """The version of the format, :data:`VERSION`."""
    cluster: Cluster
    """The UID of the namespace kube-system, unless the setting WEIR_CLUSTER says otherwise."""
    node: Node
    ring: RingId
    """The random id of the ring buffer that the verdicts were read from."""
    first: Count
    """The number of the first verdict: its position in the ring divided by the distance between two of them."""
    verdicts: Count
    verdict_bytes: Count
    """The bytes of each verdict, at least 88."""
    clock: Offset
    """CLOCK_REALTIME - CLOCK_MONOTONIC in nanoseconds, measured when the batch was made."""
    skew: tuple[Offset, Count] | None = None
    """By how much CLOCK_REALTIME is ahead of the brokers' clocks, and how uncertain that is, in nanoseconds; None if
    it has not been measured: see :mod:`enrich.wire.clock_skew`."""
    endpoints: dict[Number, EndpointRef] = {}
    """The pod of each endpoint number (in decimal) in these verdicts."""
    rules: dict[Number, list[PolicyRef]] = {}
    """The policies of each rule number (in decimal) in these verdicts."""
    lost: _Losses = {}
    """The verdicts lost for each reason: since the last batch, and in all. The second number counts for the life of the
    ring if the kernel lost them, and for the life of the spool if the probe did."""
    kept: list[tuple[Count, Count]] | None = None
    """The runs ``[number, verdicts]`` that a full spool kept when it thinned the batch out; None if nothing is missing.
    ``first`` is then the number of the first kept."""
    removed: tuple[LossReason, Count, Count] | msgspec.UnsetType = msgspec.UNSET
    """Why verdicts were removed from the batch, the first of the numbers that it had before, and how many it had. If
    all were removed, ``first`` is the number after them. Unset if nothing was removed, and in earlier versions."""
    cut: Cuts = []
    """What was not logged on purpose (:mod:`enrich.wire.cuts`); empty in earlier versions."""
    tally: Tally | msgspec.UnsetType = msgspec.UNSET
    """What the probe says of the ring so far; set once in some seconds."""
    ends: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)] | msgspec.UnsetType = msgspec.UNSET
    """Reports of connections (:mod:`enrich.wire.ends`); unset if there are none."""
    ends_first: Count | msgspec.UnsetType = msgspec.UNSET
    """The number in their ring of the first report that the batch has or had; unset if none are made."""
    ends_removed: Annotated[dict[LossReason, Count], msgspec.Meta(max_length=64)] | msgspec.UnsetType = msgspec.UNSET
    """How many reports were removed from the batch, by reason. Their numbers come before those that it has."""
    ends_lost: _Losses | msgspec.UnsetType = msgspec.UNSET
    """The reports that the kernel could not make or write, as in ``lost``."""

    @property
    def covered(self) -> Numbers:
        """The numbers that the batch has, or had before verdicts were removed."""
        return Numbers.of(self.first, self.verdicts, self.kept, self.removed or None)

    @property
    def key(self) -> bytes:
        """The Kafka key. All batches of one ring have one key, and so stay in order."""
        return f"{self.cluster}/{self.node}/{self.ring}".encode()


class Batch(msgspec.Struct, frozen=True):
    """A decoded batch. ``verdicts`` is a :data:`VERDICT` array, a view of the message's bytes."""

    header: Header
    verdicts: np.ndarray[Any, np.dtype[np.void]]
    picked: np.ndarray[Any, np.dtype[np.uint64]] | None = None
    """The numbers of the verdicts, if they are only a part of those that the header announces."""
    ends: Ends | None = None
    """The reports of connections in the header; None if there are none, and in a part of a batch."""
    refused_ends: Sequence[RefusedEnds] = ()
    """The reports in the header that are left out, because this version does not understand them."""

    def pick(self, verdicts: np.ndarray[Any, Any]) -> Batch:
        """Return the part that consists of these verdicts, chosen by a mask or by indexes."""
        return Batch(self.header, self.verdicts[verdicts], self.numbers()[verdicts])

    def encode(self) -> bytes:
        """Encode the picked verdicts as the Kafka value of a thinned batch that kept only them."""
        numbers = self.numbers()
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 2) != 1)
        kept = [(int(run[0]), len(run)) for run in np.split(numbers, starts[1:])]
        header = msgspec.structs.replace(
            self.header, first=kept[0][0], verdicts=len(self.verdicts), verdict_bytes=VERDICT.itemsize, kept=kept,
            removed=msgspec.UNSET, ends=msgspec.UNSET, ends_first=msgspec.UNSET, ends_removed=msgspec.UNSET,
            ends_lost=msgspec.UNSET,
        )  # fmt: skip
        return encode_batch(header, np.ascontiguousarray(self.verdicts))

    def numbers(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Return the number of each verdict in its ring."""
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
    """The bytes are not a batch that this reader accepts. The message says why, and ``reason`` says it in one word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


_decode_header = msgspec.json.Decoder(Header).decode
_OWN_BYTES: Final = VERDICT.itemsize
_MAX_DIGITS: Final = 10
"""The decimal digits of the largest number of 32 bits."""


def encode_batch(header: Header, verdicts: np.ndarray[Any, np.dtype[np.void]]) -> bytes:
    """Encode a batch as a Kafka value. ``verdicts`` is a contiguous :data:`VERDICT` array of the header's length."""
    return orjson.dumps(msgspec.to_builtins(header)) + b"\n" + verdicts.tobytes()


def decode_batch(value: bytes) -> Batch:
    """Decode a Kafka value. Raises :class:`BatchError` unless it is a complete batch of this version."""
    end = value.find(b"\n")
    if end < 0:
        raise BatchError("no_header", "no newline ends the header")
    try:
        header = _decode_header(value[:end])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad_header(value[:end], error) from error
    if header.v != VERSION:
        raise BatchError("unknown_version", f"version {header.v}, but this reader knows only {VERSION}")
    _check(header, len(value) - end - 1)
    body = np.frombuffer(value, "u1", offset=end + 1)
    if header.verdict_bytes != _OWN_BYTES:
        # A newer sender's verdicts are longer. The fields that are known here come first.
        body = np.ascontiguousarray(body.reshape(header.verdicts, header.verdict_bytes)[:, :_OWN_BYTES]).ravel()
    verdicts = body.view(VERDICT)
    _check_times(header, verdicts)
    if header.ends is msgspec.UNSET:
        return Batch(header, verdicts)
    ends, refused = decode_ends(header.ends, VERDICT, header.clock)
    return Batch(header, verdicts, ends=ends, refused_ends=refused)


def _bad_header(text: bytes, error: Exception) -> BatchError:
    """Name the version as the reason if it is another one: a header of that version may look different."""
    try:
        version = msgspec.json.decode(text).get("v", VERSION)
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError, RecursionError):
        return BatchError("bad_header", f"the header is not a JSON object: {error}")
    if version != VERSION:
        return BatchError("unknown_version", f"version {version!r}, but this reader knows only {VERSION}")
    return BatchError("bad_header", str(error))


def _check(header: Header, body: int) -> None:
    if problem := problem_of(header.first, header.verdicts, header.kept, header.removed or None):
        raise BatchError("bad_header", problem)
    for number in (*header.endpoints, *header.rules):
        if len(number) == _MAX_DIGITS and int(number) >= 1 << 32:
            raise BatchError("bad_header", f"{number} is not a number of an endpoint or a rule: it has 32 bits")
    if header.verdict_bytes < _OWN_BYTES:
        raise BatchError("bad_header", f"verdict_bytes is {header.verdict_bytes}, must be at least {_OWN_BYTES}")
    if body != header.verdicts * header.verdict_bytes:
        raise BatchError(
            "wrong_length", f"{body} bytes of verdicts, {header.verdicts * header.verdict_bytes} announced"
        )


def _check_times(header: Header, verdicts: np.ndarray[Any, np.dtype[np.void]]) -> None:
    """Check that every time is one of the wall clock after 1970, so that sums of times fit 64 bits."""
    if not len(verdicts):
        return
    times = verdicts["time_ns"]
    earliest, latest = int(times.min()), int(times.max())
    if not are_times(earliest, latest, header.clock):
        raise BatchError("bad_verdict", f"a verdict's time is out of range: {earliest} to {latest}, {header.clock}")
