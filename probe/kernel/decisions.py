"""Reads the kernel's tally of decisions: how many it made, and where each of them is now.

Theory of operation. ``bpf/verdicts.h`` has the equation: decided = written + cut + lost + in open deny windows. The
programs go on counting while the terms are read, so the equation would never hold between values of one moment. But the
order of reading bounds what may differ:

1. Read how many decisions were made, 1,000 say, and where the ring ends.
2. Wait until every program run that is in progress now has ended. So each of these 1,000 is in one of the terms.
3. Read the terms: 1,003 together, because three more decisions were made meanwhile.
4. Read again how many decisions were made: 1,005. Every decision in a term was counted as decided before.

So the sum of the terms is between 1,000 and 1,005. Otherwise decisions are missing, or were counted twice. Nothing but
the closing of deny windows takes a decision from one term to another, so windows must not be closed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from probe.kernel import bpf
from probe.kernel.counter_kinds import CUT, LOST
from probe.kernel.deny_windows import packets_waiting
from probe.kernel.layout import Counter
from probe.kernel.maps import Maps


class Decisions(NamedTuple):
    """The tally of one set of maps. All numbers are totals since the maps were made, ``waiting`` excepted."""

    decided: tuple[int, int]
    """Decisions made before the terms were read, and after."""
    written: int
    """Decisions that the verdicts in the ring count."""
    waiting: int
    """Denied packets that are counted in open deny windows."""
    cut: dict[str, int]
    """Decisions that were left out on purpose, by reason."""
    lost: dict[str, int]
    """Decisions that were lost, by reason."""
    ring: tuple[int, int]
    """The number of the ring's next verdict, before the terms were read and after."""
    verdicts: int
    """Verdicts that the programs have counted as written to the ring."""


def read_decisions(maps: Maps, next_number: Callable[[], int]) -> Decisions:
    """Read the tally. ``next_number`` returns the number that the ring's next verdict will have.

    No deny window may be closed meanwhile."""
    before, first = maps.counters()[Counter.DECIDED], next_number()
    bpf.wait_for_programs()
    waiting = packets_waiting(maps)
    counters = maps.counters()
    return Decisions(
        written=counters[Counter.WRITTEN],
        waiting=waiting,
        cut={f"{by}_{decided}": counters[counter] for (by, decided), counter in CUT.items()},
        lost={counter.name.lower(): counters[counter] for counter in LOST},
        verdicts=counters[Counter.RING_VERDICTS],
        ring=(first, next_number()),
        decided=(before, maps.counters()[Counter.DECIDED]),
    )
