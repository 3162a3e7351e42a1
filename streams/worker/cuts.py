"""Reads what batch headers say was cut. Whoever may write to the raw topic can name any kind, so only those are read
that this version knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from enrich.wire.cuts import KINDS, Cut, sum_of


def named_cuts(cuts: Sequence[Cut]) -> Mapping[str, Cut]:
    """Return the cuts of a header by the name of their total, which is beside the reasons of losses in checkpoints."""
    return {f"cut_{cut.by}_{cut.decided}": cut for cut in sum_of((), cuts) if cut.kind in KINDS}


def new_cut(cut: Cut, verdicts: int) -> Cut:
    """Return a cut with only these of its verdicts; where a header did not arrive, it is not known whose they are."""
    if verdicts == cut.verdicts:
        return cut
    return msgspec.structs.replace(cut, verdicts=verdicts, ms=0, parts=[])
