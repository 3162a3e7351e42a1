"""Decodes batches, and refuses those that this worker must not enrich."""

from __future__ import annotations

from collections.abc import Callable

from enrich.wire.batch import Batch, BatchError, decode_batch
from enrich.wire.whose import cluster_named, is_foreign
from streams.metrics.roles import EnrichMetrics


class Decoder:
    """Decodes the batches of one cluster, or of all."""

    def __init__(self, cluster_id: str, node_of: Callable[[str], str], metrics: EnrichMetrics) -> None:
        """``cluster_id`` and ``node_of``: see :class:`streams.worker.pipeline.Pipeline`."""
        self._cluster_id, self._node_of, self._metrics = cluster_id, node_of, metrics

    def decode(self, value: bytes | None) -> Batch | None:
        """Return the batch, None if it is another cluster's. Raises BatchError."""
        if value is None:
            raise BatchError("no_value", "the record has no value")
        try:
            batch = decode_batch(value)
        except BatchError:
            if not is_foreign(cluster_named(value.partition(b"\n")[0]), self._cluster_id):
                raise
            self._metrics.foreign_records.labels("batches").inc()
            return None
        header = batch.header
        if is_foreign(header.cluster, self._cluster_id):
            self._metrics.foreign_records.labels("batches").inc()
            return None
        for ref in header.endpoints.values():
            node = self._node_of(ref.uid)
            if node and node != header.node:
                raise BatchError(
                    "wrong_node", f"pod {ref.namespace}/{ref.pod} is on {node!r}, the batch says {header.node!r}"
                )
        return batch
