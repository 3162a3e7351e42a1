"""What `weir size` counts with: figures that were measured, each with the page of docs/ that says how.

tests/streams/cli/test_size.py looks each of them up on its page.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Fact(NamedTuple):
    """A measured figure."""

    value: float
    page: str
    """The page, below docs/."""
    says: str
    """The words of the page that state it."""


VERDICTS_OF_A_CORE: Final = Fact(227_000, "measurements.md", "29,000 to 66,000 | 227,000 to 265,000")
"""Verdicts that a worker makes records of in a second of CPU, with 100,000 pods and 100 changes a second."""
VERDICTS_OF_A_BROKER: Final = Fact(813_000, "measurements.md", "from the ring to acknowledged Kafka | 813,000")
"""Verdicts a second that one broker took, in large batches, on two cores that the probe used as well."""
RAW_BYTES_LARGE: Final = Fact(35.0, "scale.md", "batches of 1,000 | 35.0")
"""Bytes of a verdict in the raw topic, in batches of 1,000."""
RAW_BYTES_SMALL: Final = Fact(105.2, "scale.md", "batches of 10 | 105.2")
"""The same in batches of 10."""
FLOW_BYTES: Final = Fact(210.6, "scale.md", "`flows`, ten records of a partition at once | 210.6")
"""Bytes of a record on the topic of flows."""
DENIED_BYTES: Final = Fact(207.9, "scale.md", "`flows.denied`, ten records of a partition at once | 207.9")
"""Bytes of a record on the topic of denied flows."""
STATUS_BYTES: Final = Fact(1_000, "scale.md", "A record with a tally takes about 1,000 bytes")
INTERVAL_BYTES: Final = Fact(400, "measurements.md", "About 400 bytes per record")
JOURNAL_BYTES: Final = Fact(980_000 / 10_000, "scale.md", "A day of a cluster of 10,000 pods takes 0.98 MB")
"""Bytes of the journal in a day for each pod of the cluster."""
PAIR_BYTES: Final = Fact(5.8, "decisions/030-pairs.md", "8.9 with lz4, 5.8 with zstd")
"""Bytes of a combination in an hour."""
PAIRS_OF_A_POD: Final = Fact(10, "history.md", "a cluster of 10,000 pods with 100,000 combinations an hour")
POD_BYTES: Final = Fact(3_700, "measurements.md", "At 100,000 pods of 3.7 kB each")
"""Bytes of a pod as the API server lists it, or tells a change of it."""
CHANGES_OF_A_POD: Final = Fact(
    100 / 100_000, "measurements.md", "100 pod changes a second | 370 kB a second to each node"
)
"""Changes a second of each pod, on average."""
INDEX_BYTES: Final = Fact(90_000_000 / 100_000, "measurements.md", "the index of a worker or a probe | 90 MB")
"""Memory of a pod in the index of a worker or probe."""
PROBE_MIB: Final = Fact(230, "measurements.md", "36m, 220 to 230 MiB")
"""Memory of a probe on a node of 110 pods in a small cluster, with the kernel's maps."""
WORKER_MIB: Final = Fact(113, "measurements.md", "250m, 113 MiB")
"""Memory of a worker in a small cluster."""
WORKER_CORES: Final = Fact(0.25, "measurements.md", "26m, 94 MiB | 250m, 113 MiB")
"""CPU of a worker that gets few verdicts, in many small batches."""
WORKER_LIMIT_MIB: Final = Fact(3_072, "scale.md", "the container's limit is 3,072 MiB")
"""The memory limit of a worker, for up to 100,000 pods."""
PODS_OF_THE_LIMIT: Final = Fact(100_000, "scale.md", "More than 100,000 pods need a higher limit")

FACTS: Final = {name: one for name, one in globals().items() if isinstance(one, Fact)}
