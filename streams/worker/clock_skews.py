"""Shows which nodes' clocks are wrong, as their probes say: as a metric, and in the log when it changes."""

from __future__ import annotations

from typing import Final

import structlog

from enrich.wire.batch import Header
from enrich.wire.clock_skew import Skew, correction_ns, is_absurd
from streams.metrics.roles import EnrichMetrics

log = structlog.get_logger("kubeweir.streams")

_MAX_NODES: Final = 100
"""Nodes that are shown: whoever may write batches can name any."""


class ClockSkews:
    """The nodes whose clocks are wrong now."""

    def __init__(self, metrics: EnrichMetrics) -> None:
        self._metrics = metrics
        self._wrong: dict[str, Skew] = {}

    def note(self, header: Header) -> None:
        """Note what a batch says of its node's clock."""
        node, skew = header.node, header.skew
        refused = is_absurd(skew)
        if refused:
            self._metrics.refused_clock_offsets.inc()
        if skew is None or not (refused or correction_ns(skew)):
            if self._wrong.pop(node, None) is not None:
                self._metrics.clock_offset.remove(node)
        elif self._wrong.get(node) != skew and (node in self._wrong or len(self._wrong) < _MAX_NODES):
            self._wrong[node] = skew
            offset_s, uncertainty_s = skew[0] / 1e9, skew[1] / 1e9
            self._metrics.clock_offset.labels(node).set(offset_s)
            text = "its verdicts are named as if it were right" if refused else "names are corrected for it"
            log.warning(f"a node's clock is not that of the brokers; {text}", node=node, ahead_s=round(offset_s, 3),
                        uncertainty_s=round(uncertainty_s, 3))  # fmt: skip
