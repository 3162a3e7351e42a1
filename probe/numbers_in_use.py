"""Reserves the numbers that the kernel still has, at the start of a probe.

The ledger may have lost their meaning: its file was removed or damaged, or the disk was full. A verdict with such a
number has no name then. It must not get a wrong one, so nothing else may get the number.
"""

from __future__ import annotations

from collections.abc import Iterable

from probe.export.ring import Ring
from probe.kernel.generations import Generation
from probe.ledger import Ledger
from probe.ledger_compaction import Holder


def reserve_numbers(ledger: Ledger, generation: Generation, rings: Iterable[Ring]) -> None:
    """Reserve what unread verdicts and reports, deny windows, connections to be reported and the maps of earlier
    generations refer to.

    The agent reserves what its own policy maps refer to.
    """
    for predecessor in generation.predecessors:
        for kind, highest in predecessor.numbers().items():
            ledger.reserve(kind, highest)
    holders: list[Holder] = [generation, *generation.predecessors, *rings]
    for holder in holders:
        for kind, numbers in holder.references().items():
            ledger.reserve(kind, max(numbers, default=0))
