"""The metrics of counting pairs (:mod:`streams.worker.pairs`)."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

FOLDED_PAIRS: Final = ("addresses", "ports", "workload", "worker", "invalid")
"""Why a combination of a pair is counted in a coarser one."""


class PairMetrics:
    """What a worker counts of its pairs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"kubeweir_streams_pairs_{name}", text, labels, registry=registry)

        self.counted = counter("counted_verdicts", "Verdicts counted in pairs")
        self.missed = counter(
            "missed_verdicts",
            "Verdicts that no pair counts. late: more than 25 hours old, or more than an hour ahead. failed: they "
            "could not be counted, which is a bug",
            ("reason",),
        )
        self.missed_batches = counter(
            "missed_batches",
            "Batches that are not counted in pairs, because counts were not written before another worker went on: see "
            "the records pairs_missed of the status topic",
        )
        self.folded = counter(
            "folded_combinations",
            "Combinations that were counted in a coarser one. addresses: more than 1,000 peers outside the cluster of "
            "a workload in an hour. ports: more than 128 ports between two ends. workload, worker: more combinations "
            "in an hour than a tenth of WEIR_PAIRS_LIMIT, or than WEIR_PAIRS_LIMIT. invalid: a name that readers "
            "would refuse",
            ("reason",),
        )
        self.written = counter("written_records", "Records written to the topic of pairs")
        self.failed_writes = counter("failed_writes", "Writes of counts that failed; each is retried with backoff")
        self.restarts = counter(
            "restarts",
            "How often a worker dropped what it had not written and began to count anew: another worker has taken its "
            "partitions over, counts that could not be written took too much memory, or a bug. What was dropped is "
            "read once more if it is not too much",
        )
        self.behind = Gauge(
            "kubeweir_streams_pairs_behind_seconds",
            "Seconds up to now of which what had reached Kafka is not counted in pairs, of the partition of this "
            "worker that is furthest behind",
            registry=registry,
        )
        self.bytes = Gauge("kubeweir_streams_pairs_bytes", "Bytes of counts of pairs in memory", registry=registry)
        for reason in ("late", "failed"):
            self.missed.labels(reason)
        for reason in FOLDED_PAIRS:
            self.folded.labels(reason)
