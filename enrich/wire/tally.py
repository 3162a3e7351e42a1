"""The tally that a probe gives of its verdicts, in the header of a batch.

Theory of operation. The counters of a kernel, a spool and a worker cannot be compared at one moment, because verdicts
are on their way between them all the time. But each verdict has a number in its ring. So a probe puts its tally into
the header of a batch, after the verdicts that it is about::

    batch 41: numbers 900 to 999        batch 42: numbers 1000 to 1049, and a tally: the ring ends at 1000
                                                                          or later, and at 1049 or before

Batches of a ring arrive in order. When a worker has finished batch 42, all that the tally is about was finished, or
is missing: nothing of it can be under way any more, however much else is. Then the worker writes the tally to the
topic of status records, with its own tally of the numbers below 1050 beside it.

Each number in a tally is counted by what did it, or is a number in the ring. None is computed from the others, so
that what one of them lacks shows. :mod:`streams.cli.custody` compares them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from enrich.wire.bounds import Count, LossReason, Nanoseconds, Seconds
from enrich.wire.in_force import MAX_WAITING, PoliciesInForce

Reasons = Annotated[dict[LossReason, Count], Meta(max_length=64)]
_Text = Annotated[str, Meta(max_length=400)]
_Word = Annotated[str, Meta(max_length=64)]


class KernelTally(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel decided, and where it is (``probe.kernel.decisions``): totals of the ring's life."""

    decided: tuple[Count, Count]
    """Decisions made before the other terms were read, and after. A decision is an allowed or audited connection, or
    a denied packet."""
    written: Count
    """Decisions that the verdicts in the ring count."""
    waiting: Count
    """Denied packets in deny windows that are open."""
    cut: Reasons = {}
    """Decisions that are not logged on purpose."""
    lost: Reasons = {}
    ring: tuple[Count, Count]
    """The number of the ring's next verdict, before the other terms were read and after."""
    verdicts: Count
    """Verdicts that the programs have counted as written to the ring."""


class SpoolTally(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the ring's batches since the probe started: what Kafka has answered, and what waits for that."""

    begin: Count
    """The first number of the first batch."""
    next: Count
    """The number after the last verdict that Kafka has answered about."""
    published: Count
    """Verdicts that Kafka has acknowledged."""
    removed: Reasons = {}
    """Verdicts that were removed from these batches, or refused with them."""
    appended: Count | None = None
    """The number after the last verdict that was appended to the spool; None while it has batches of an earlier start,
    whose verdicts were not counted."""
    waiting: Count = 0
    """Verdicts that were appended and that Kafka has not answered about; counted when they were appended."""


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator must know of the node beside its verdicts."""

    version: _Word = ""
    watch: Annotated[dict[_Word, Seconds], Meta(max_length=64)] = {}
    """Seconds since the API server last sent anything, by kind."""
    unenforced: Annotated[dict[_Text, _Text], Meta(max_length=64)] = {}
    """Pods whose policy is not enforced, with the reason; of many, the first."""
    unenforced_pods: Count = 0
    """How many there are."""
    capacity: Annotated[dict[_Word, tuple[Count, Count]], Meta(max_length=64)] = {}
    """Entries of maps: how many there are, and how many fit."""
    suspicious: Annotated[dict[_Text, _Text], Meta(max_length=64)] = {}
    """Annotations about logging that count as not set because their value is not ``true``; of many, the first."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """One tally of one ring."""

    at: Nanoseconds
    """When it was made, by the node's clock."""
    every: Seconds
    """How many seconds later the next one is due."""
    kernel: KernelTally
    spool: SpoolTally | None = None
    """None before Kafka has answered about a batch."""
    state: NodeState = NodeState()
    in_force: Annotated[tuple[PoliciesInForce, ...], Meta(max_length=MAX_WAITING)] = ()
    """Which policies the last epochs stand for: the changes that no earlier batch carries."""
