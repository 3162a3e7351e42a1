"""Amounts to measure: FULL gives steady medians within some minutes, QUICK only shows that the bench works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scale:
    """The number of rounds of each part, and the amounts in a round."""

    other_pods: int
    """Pods on other nodes, whose addresses fill the kernel's maps."""
    packet_rounds: int
    repeated_packets: int
    """Runs of the program on one frame, for the mean."""
    single_packets: int
    """Single runs of the program, for the median."""
    ring_rounds: int
    ring_batches: int
    """Batches of 2,000 verdicts in the full ring."""
    streams_rounds: int
    streams_verdicts: dict[int, int]
    """Verdicts in the raw topic, by batch size."""
    pair_turns: int
    """Turns with and without counting pairs."""
    pair_verdicts: int
    """Verdicts of a turn."""
    plain_verdicts: int
    """Verdicts in the raw topic for plain Faust, each a JSON record."""
    alert_groups: int
    """Groups of one alert rule."""
    denies_a_second: int
    alert_warmup_s: float
    """Seconds of denies before the first sample."""
    alert_samples: int
    churn_rounds: int
    churn_pods: int
    churn_s: float
    """Seconds of CPU time of each case and round."""


FULL: Final = Scale(
    other_pods=2000,
    packet_rounds=7,
    repeated_packets=1_000_000,
    single_packets=2000,
    ring_rounds=5,
    ring_batches=80,
    streams_rounds=3,
    streams_verdicts={10: 60_000, 100: 250_000, 1000: 600_000},
    pair_turns=15,
    pair_verdicts=80_000,
    plain_verdicts=24_000,
    alert_groups=100_000,
    denies_a_second=10_000,
    alert_warmup_s=10.0,
    alert_samples=8,
    churn_rounds=5,
    churn_pods=100_000,
    churn_s=4.0,
)
QUICK: Final = Scale(
    other_pods=50,
    packet_rounds=1,
    repeated_packets=10_000,
    single_packets=100,
    ring_rounds=1,
    ring_batches=10,
    streams_rounds=1,
    streams_verdicts={10: 1000, 100: 4000, 1000: 16_000},
    pair_turns=2,
    pair_verdicts=16_000,
    plain_verdicts=1000,
    alert_groups=1000,
    denies_a_second=800,
    alert_warmup_s=1.0,
    alert_samples=2,
    churn_rounds=1,
    churn_pods=2000,
    churn_s=0.2,
)
