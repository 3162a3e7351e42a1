"""Counts what a batch shows to be lost or cut, and heartbeats, and describes them for the status topic and the log.

It also describes which policies an epoch of the node stands for (:mod:`enrich.wire.in_force`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import structlog

from enrich.wire.batch import Header
from enrich.wire.bounds import are_times
from enrich.wire.cuts import Cut
from enrich.wire.in_force import PoliciesInForce
from streams.metrics.roles import EnrichMetrics
from streams.timestamps import rfc3339_ns
from streams.worker.losses import Loss

log = structlog.get_logger("kubeweir.streams")


def account(found: Loss | Cut, header: Header, metrics: EnrichMetrics) -> dict[str, Any]:
    """Count a loss or cut; return its record on the status topic. Losses are logged, too, because they are faults."""
    ring = _ring(header)
    if isinstance(found, Cut):
        metrics.count_cut(found)
        return {"type": "cut", **_described(found), **ring}
    if found.kind == "gap":
        metrics.gap_verdicts.inc(found.verdicts)
    elif found.kind == "gap_unknown":
        metrics.unknown_gaps.inc()
    elif found.kind == "ends_lost":
        return _account_ends(found, ring, metrics)
    else:
        metrics.lost_verdicts.labels(found.reason).inc(found.verdicts)
    described: dict[str, Any] = {"reason": found.reason, "verdicts": found.verdicts}
    described |= {} if found.first is None else {"first": found.first}
    log.warning("verdicts lost", **ring, kind=found.kind, **described)
    return {"type": found.kind, **described, **ring}


def _account_ends(found: Loss, ring: dict[str, Any], metrics: EnrichMetrics) -> dict[str, Any]:
    metrics.lost_ends.labels(found.reason).inc(found.verdicts)
    described: dict[str, Any] = {"reason": found.reason, "reports": found.verdicts}
    described |= {"error": found.text} if found.text else {}
    log.warning("reports of connections lost", **ring, **described)
    return {"type": "ends_lost", **described, **ring}


def statements(header: Header, metrics: EnrichMetrics) -> Iterator[dict[str, Any]]:
    """Count a batch without verdicts; yield what the status topic says beside losses: that the probe is alive, and
    which policies its epochs stand for."""
    if not header.verdicts:
        metrics.heartbeats.inc()
        yield {"type": "heartbeat", "next": header.first, **_ring(header)}
    for one in header.tally.in_force if header.tally else ():
        yield {"type": "policies", **_ring(header), **_in_force(one, header.clock)}


def _in_force(one: PoliciesInForce, clock: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "change": one.change,
        "epoch": one.epoch,
        "policies": [msgspec.structs.asdict(policy) for policy in one.policies],
        "left_out": one.left_out,
    }
    if one.switched and are_times(min(one.switched), max(one.switched), clock):
        found["in_force"] = [rfc3339_ns(at + clock) for at in one.switched]
    return found


def _ring(header: Header) -> dict[str, Any]:
    return {"cluster": header.cluster, "node": header.node, "ring": header.ring}


def _described(cut: Cut) -> dict[str, Any]:
    found: dict[str, Any] = {"by": cut.by, "class": cut.decided, "verdicts": cut.verdicts, "total": cut.total}
    if cut.ms:
        found["seconds"] = cut.ms / 1000
    if cut.parts:
        found["parts"] = [
            {"namespace": part.namespace, "disposition": part.disposition, "verdicts": part.verdicts}
            for part in cut.parts
        ]
    return found
