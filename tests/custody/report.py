"""What the account has found, in numbers and in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

_SHOWN: Final = 20


@dataclass
class Report:
    """What the account has found."""

    packets: int = 0
    verdicts: int = 0
    by_node: Counter[str] = field(default_factory=Counter)
    """How many verdicts each node has logged."""
    across: int = 0
    """Connections that were allowed between pods of two nodes, each with its records at both."""
    epochs: int = 0
    """Records about which policies are in force."""
    flows: Counter[str] = field(default_factory=Counter)
    """How many flows there were, by protocol and what happened."""
    in_windows: int = 0
    """Flows with packets while a change of policy was on its way."""
    nameless: int = 0
    """Ends that are honestly without a name."""
    repeats: int = 0
    """Records whose id was there already."""
    twice: int = 0
    """Connections that two generations have logged."""
    alone: int = 0
    """Records about packets that were judged alone while interfaces were moved."""
    differences: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the account in words; the last line sums it up."""
        shown = [f"DIFFERENCE: {text}" for text in self.differences[:_SHOWN]]
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.flows.items()))
        return [
            *shown, f"flows: {kinds}",
            ", ".join(f"{node}: {count} verdicts" for node, count in sorted(self.by_node.items()))
            + f"; {self.across} connections between pods of two nodes, each logged by both; "
            f"{self.epochs} times the policies of an epoch",
            f"{self.in_windows} flows while a policy changed, {self.nameless} ends without a name, {self.repeats} "
            f"records repeated, {self.twice} connections logged by two generations of maps, {self.alone} packets "
            "judged alone while one took over",
            f"{self.packets} packets, {self.verdicts} verdicts, {len(self.differences)} differences",
        ]  # fmt: skip
