"""What was cut: not logged on purpose, and counted, in the header of a batch.

An example: a batch says ``"cut":[["limit","allowed",12034,90210,1004,[["shop","allow",12000]]]]``. In the 1,004 ms
before it, 12,034 allowed verdicts were over the limit, of 90,210 in the life of the ring; 12,000 of them were of pods
in the namespace shop. Allowed verdicts are counted as connections. Denied ones are counted as packets, because without
a deny window there is no verdict to count; audited connections are among them.

The totals are the kernel's, so that a count is exact over restarts, and a reader that missed a batch, or has read one
twice, still counts everything once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

import msgspec

from enrich.wire.bounds import MAX_COUNT, Count, LossReason, NamespaceOrNone

LOGGING: Final = "logging"
"""Cut by NetworkLogging or the settings of what is logged."""
LIMIT: Final = "limit"
"""Cut by WEIR_LIMIT_ALLOWED or WEIR_LIMIT_DENIED."""
ALLOWED: Final = "allowed"
DENIED: Final = "denied"
KINDS: Final = ((LOGGING, ALLOWED), (LOGGING, DENIED), (LIMIT, ALLOWED), (LIMIT, DENIED))
"""What cuts, and what of: all kinds that this version knows."""
MAX_PARTS: Final = 64
"""Parts of a cut that name a namespace; the others are together, without a name."""


class CutPart(msgspec.Struct, array_like=True, frozen=True):
    """The verdicts of a cut that have one namespace and disposition."""

    namespace: NamespaceOrNone
    """The namespace of the pod whose policy decided; empty if it is not known, or if there are too many."""
    disposition: LossReason
    """allow, deny or audit."""
    verdicts: Count


class Cut(msgspec.Struct, array_like=True, frozen=True):
    """What was cut of one kind."""

    by: LossReason
    """What cuts: :data:`LOGGING` or :data:`LIMIT`."""
    decided: LossReason
    """The class: :data:`ALLOWED` or :data:`DENIED`."""
    verdicts: Count
    """Since the header that said so last."""
    total: Count
    """In the life of the ring."""
    ms: Count = 0
    """The time in which ``verdicts`` were cut, in milliseconds; 0 if it is not known, as after a start."""
    parts: Annotated[list[CutPart], msgspec.Meta(max_length=2 * MAX_PARTS)] = []
    """``verdicts`` by namespace and disposition, as far as they are known."""

    @property
    def kind(self) -> tuple[str, str]:
        """What cuts, and what of."""
        return self.by, self.decided


Cuts = Annotated[list[Cut], msgspec.Meta(max_length=64)]
"""The cuts in a header: one for each kind, if anything was cut in the life of the ring."""


def sum_of(before: Iterable[Cut], after: Iterable[Cut]) -> list[Cut]:
    """Return what two headers of a ring say together; the later totals count."""
    found = {cut.kind: cut for cut in before}
    for cut in after:
        earlier = found.get(cut.kind)
        found[cut.kind] = cut if earlier is None else msgspec.structs.replace(
            cut,
            verdicts=min(earlier.verdicts + cut.verdicts, MAX_COUNT),
            ms=min(earlier.ms + cut.ms, MAX_COUNT) if earlier.ms and cut.ms else earlier.ms or cut.ms,
            parts=parts_of((one.namespace, one.disposition, one.verdicts) for one in (*earlier.parts, *cut.parts)),
        )  # fmt: skip
    return list(found.values())


def parts_of(counts: Iterable[tuple[str, str, int]]) -> list[CutPart]:
    """Return the parts of a cut for counts by namespace and disposition. At most :data:`MAX_PARTS` name a namespace,
    the largest ones."""
    summed: dict[tuple[str, str], int] = {}
    for namespace, disposition, verdicts in counts:
        summed[namespace, disposition] = min(summed.get((namespace, disposition), 0) + verdicts, MAX_COUNT)
    ordered = sorted(summed.items(), key=lambda one: -one[1])
    named = dict([one for one in ordered if one[0][0]][:MAX_PARTS])
    rest: dict[str, int] = {}
    for key, verdicts in ordered:
        if key not in named:
            rest[key[1]] = min(rest.get(key[1], 0) + verdicts, MAX_COUNT)
    parts = [CutPart(*key, verdicts) for key, verdicts in named.items() if verdicts]
    return parts + [CutPart("", disposition, verdicts) for disposition, verdicts in list(rest.items())[:3] if verdicts]


def by_kind(cuts: Sequence[Cut]) -> Mapping[tuple[str, str], int]:
    """Return the totals of a header's cuts."""
    return {cut.kind: cut.total for cut in cuts}
