"""Plain Faust for comparison: an agent that receives one JSON verdict, makes its record, and sends it.

It is written as Faust's own documentation shows: JSON values, `async for`, `await topic.send()`. It has the same index
of the same cluster and makes the same records (a test compares them), each as a dict. It has no batches, and none of
the measures against loss of :mod:`streams.worker.faust_app`. It runs as a process, ``python -m tests.bench.plain``,
with the settings of `weir-streams`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any, Final

import faust

from enrich.index.cluster import Cluster
from enrich.model import Pod
from enrich.render.fragments import SCHEMA_VERSION, LabelChoice, second_text
from enrich.runtime.settings import load
from enrich.sources.factory import make_source
from streams.settings import Settings

_BY_POLICY: Final = frozenset({"policy", "explicit_deny", "adopted"})
_PR_SET_PDEATHSIG: Final = 1


class PlainEnricher:
    """Makes one record from one verdict."""

    def __init__(self, cluster: Cluster, labels: LabelChoice) -> None:
        self._cluster, self._labels = cluster, labels
        self._pods: dict[str, dict[str, Any]] = {}

    def record(self, verdict: dict[str, Any]) -> dict[str, Any]:
        """Return the verdict's record, in the form of ``schemas/flow.schema.json``."""
        inward, at = verdict["direction"] == "ingress", verdict["time_ns"]
        local = self._local(verdict["endpoint"], verdict["node"])
        remote = self._remote(verdict["source" if inward else "destination"], at)
        by_policy = verdict["reason"] in _BY_POLICY
        return {
            "connection": {
                "src_ip": verdict["source"],
                "dest_ip": verdict["destination"],
                "src_port": verdict["source_port"],
                "dest_port": verdict["destination_port"],
                "protocol": verdict["protocol"],
                "direction": verdict["direction"],
            },
            "disposition": verdict["verdict"],
            "reason": verdict["reason"],
            "policies": verdict["policies"] if by_policy else [],
            "isolated_by": [] if by_policy else verdict["policies"],
            "src": remote if inward else local,
            "dest": local if inward else remote,
            "count": verdict["count"],
            "timestamp": _timestamp(at),
            "last_timestamp": _timestamp(at + verdict["span_ms"] * 1_000_000),
            "node_name": verdict["node"],
            "cluster": verdict["cluster"],
            "schema": SCHEMA_VERSION,
            "id": f"{verdict['ring']}-{verdict['number']}",
        }

    def _local(self, endpoint: dict[str, str], node: str) -> dict[str, Any]:
        pod = self._cluster.addresses.pod_by_uid(endpoint["uid"])
        if pod is None:
            return {"pod_name": endpoint["pod"], "namespace": endpoint["namespace"], "node_name": node}
        return self._pod(pod)

    def _remote(self, ip: str, at_ns: int) -> dict[str, Any]:
        pod = self._cluster.addresses.owner_at(ip, at_ns).pod
        if pod is not None:
            return self._pod(pod)
        node = self._cluster.node_of_ip(ip)
        return {"node_name": node.name, "zone": node.zone} if node else {"instance": ip}

    def _pod(self, pod: Pod) -> dict[str, Any]:
        found = self._pods.get(pod.uid)
        if found is None:
            found = self._pods[pod.uid] = self._describe(pod)
        return found

    def _describe(self, pod: Pod) -> dict[str, Any]:
        owner, node = self._cluster.workload_of(pod), self._cluster.node(pod.node)
        return {
            "pod_name": pod.name,
            "namespace": pod.namespace,
            "pod_namespace": pod.namespace,
            **({"workload_kind": owner.kind, "workload_name": owner.name} if owner else {}),
            "pod_uid": pod.uid,
            "labels": self._labels.pick(pod.labels),
            "node_name": pod.node,
            **({"zone": node.zone} if node and node.zone else {}),
        }


def _timestamp(at_ns: int) -> str:
    seconds, nanos = divmod(at_ns, 1_000_000_000)
    return f"{second_text(seconds)}{nanos:09d}Z"


def make_app(settings: Settings, enricher: PlainEnricher) -> faust.App:
    """Make the application. Denied verdicts are sent to a second topic too, as `weir-streams` does."""
    app = faust.App(
        f"{settings.prefix}.enrich",
        broker=f"kafka://{settings.kafka}",
        store="memory://",
        web_enabled=False,
        value_serializer="json",
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        producer_compression_type="lz4",
        broker_request_timeout=90.0,
        broker_rebalance_timeout=60.0,
        worker_redirect_stdouts=False,
    )
    raw = app.topic(settings.topics.raw.name, key_type=bytes, value_type=None)
    flows = app.topic(settings.topics.flows.name)
    denied = app.topic(settings.topics.denied.name)

    async def enrich(verdicts: Any) -> None:
        async for verdict in verdicts:
            record = enricher.record(verdict)
            endpoint = verdict["endpoint"]
            key = f"{endpoint['namespace']}/{endpoint['pod']}".encode()
            at = min(verdict["time_ns"] / 1e9, time.time())
            await flows.send(key=key, value=record, timestamp=at)
            if verdict["verdict"] != "allow":
                await denied.send(key=key, value=record, timestamp=at)

    app.agent(raw, name="enrich")(enrich)
    return app


def main() -> None:
    """Run until SIGTERM."""
    # The kernel ends this process when the bench ends, even if that was killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    settings = load(Settings, os.environ)
    cluster = Cluster()
    source = make_source(settings.source, cluster)
    source.start()
    try:
        app = make_app(settings, PlainEnricher(cluster, LabelChoice.of(settings.labels)))
        faust.Worker(app, loglevel="WARNING", quiet=True, redirect_stdouts=False).execute_from_commandline()
    finally:
        source.stop()


if __name__ == "__main__":
    main()
