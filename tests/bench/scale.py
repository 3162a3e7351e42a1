"""How much is measured: enough for steady medians within some minutes, or just enough to see that it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scale:
    """Amounts a round, and rounds."""

    other_pods: int
    """Pods elsewhere, whose addresses fill the kernel's maps."""
    packet_rounds: int
    packets_in_a_row: int
    packets_alone: int
    ring_rounds: int
    ring_batches: int
    """Batches of 2,000 rows that wait in the ring."""
    streams_rounds: int
    streams_rows: dict[int, int]
    """Rows in the raw topic, by the rows of a batch."""
    plain_rows: int
    """JSON records in the raw topic, for plain Faust."""
    alert_groups: int
    """Groups of one alert rule."""
    denies_a_second: int
    alert_warm_s: float
    """Of denies, before the first sample."""
    alert_samples: int


FULL: Final = Scale(
    other_pods=2000,
    packet_rounds=7,
    packets_in_a_row=1_000_000,
    packets_alone=2000,
    ring_rounds=5,
    ring_batches=80,
    streams_rounds=3,
    streams_rows={10: 60_000, 100: 250_000, 1000: 600_000},
    plain_rows=24_000,
    alert_groups=100_000,
    denies_a_second=10_000,
    alert_warm_s=10.0,
    alert_samples=8,
)
QUICK: Final = Scale(
    other_pods=50,
    packet_rounds=1,
    packets_in_a_row=10_000,
    packets_alone=100,
    ring_rounds=1,
    ring_batches=10,
    streams_rounds=1,
    streams_rows={10: 1000, 100: 4000, 1000: 16_000},
    plain_rows=1000,
    alert_groups=1000,
    denies_a_second=800,
    alert_warm_s=1.0,
    alert_samples=2,
)
