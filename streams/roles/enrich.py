"""The role `enrich`: puts the cluster's index, the topics, the enricher and the Faust worker together.

It starts in this order: the index lists the cluster; the topics are created; the address history is read; only then
does the worker join its group. So no verdict is enriched with an index that is half full.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from enrich.diagnosis.rights import Needs
from enrich.diagnosis.watch import Diagnosis
from enrich.history.profile import number_of, profile_of
from enrich.index.cluster import NAMED_KINDS, Cluster
from enrich.model import Labels, Owner, Pod
from enrich.render.enricher import Enricher
from enrich.runtime.credentials import registry_with_credentials
from enrich.runtime.health import Check, HealthServer
from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.watching import export_watch, watch_problem
from enrich.sources.factory import make_source
from enrich.sources.metrics_guard import metrics_guard
from enrich.sources.source import Source, SourceError
from streams.kafka.followed import Followed
from streams.kafka.lag import LagMonitor
from streams.kafka.open_transactions import Suspect
from streams.kafka.producer import RecordProducer
from streams.kafka.reading import TopicReader, reader_group
from streams.kafka.topics import prepare_topics
from streams.metrics.roles import EnrichMetrics
from streams.roles.ending import begin_again_unless
from streams.roles.needs import enrich_needs
from streams.roles.own_cluster import OwnCluster
from streams.roles.own_topics import OwnTopics
from streams.routes.routes_file import RoutesFile
from streams.routes.topics import Routing
from streams.settings import Settings
from streams.worker.address_history import AddressHistory
from streams.worker.library_logs import quiet_libraries
from streams.worker.pending import PendingVerdicts
from streams.worker.pipeline import Pipeline

if TYPE_CHECKING:
    from streams.worker.faust_app import EnrichWorker

log = structlog.get_logger("kubeweir.streams")


def run_enrich(settings: Settings, stop: threading.Event) -> int:
    """Run until ``stop`` or a signal; return the exit code. Raises StopServiceError."""
    # Faust is slow to import, and only this role needs it.
    from streams.worker.faust_app import EnrichWorker  # noqa: PLC0415 - as above

    if settings.routes:
        # A mistake in the file is reported at once, not only when the API server and Kafka can be reached.
        RoutesFile(Path(settings.routes), [topic.name for topic in settings.topics], lambda _: None).read()
    quiet_libraries(lambda: diagnosis.suspect())  # noqa: PLW0108 - it is made below
    registry = registry_with_credentials(settings)
    metrics = EnrichMetrics(registry, settings.verdicts_by, settings.verdicts_limit)
    cluster = Cluster(tail_s=settings.pod_retention, kinds=NAMED_KINDS)
    source = _source(settings, cluster)
    cluster.addresses.watched_until_ns = source.synced_until_ns
    export_watch(registry, source, metrics.progress.last_success)
    own_cluster, own_topics = OwnCluster(settings), OwnTopics(settings, stop)
    history: AddressHistory | None = None
    needs = [Needs()]
    diagnosis = Diagnosis(settings.connection, lambda: needs[0])
    checks: dict[str, Check] = {
        "cluster": lambda: watch_problem(cluster, source) or own_cluster.problem(),
        "kafka": diagnosis.named("kafka", lambda: own_topics.problem() or "Kafka has not been reached yet"),
    }
    notes: list[Callable[[], list[str]]] = []
    health = HealthServer(settings.metrics, registry, checks, lambda: [line for note in notes for line in note()],
                          metrics.progress.last_success.in_words, metrics_guard(settings))  # fmt: skip
    log.info("starting", role="enrich", metrics_port=health.port, kafka=settings.kafka, prefix=settings.prefix)
    diagnosis.start()
    try:
        _start(source)
        _wait(cluster.synced, stop)
        settings = own_cluster.find(stop)
        needs[:] = [enrich_needs(settings)]
        history = _history(settings, cluster, metrics)
        checks["history"] = partial(getattr, history, "problem")
        if not _prepare_topics(settings, own_topics, stop):
            return Exit.OK
        history.start()
        _wait(history.loaded, stop)
        producer = RecordProducer(settings.connection())
        pipeline = _pipeline(settings, cluster, source, producer, metrics)
        worker = EnrichWorker(settings, pipeline, producer, metrics, stop, partial(begin_again_unless, stop, "enrich"))
        if settings.routes:
            checks["routes"] = _route(pipeline, worker, Routing(settings, producer, metrics, stop))
        worker.on_group_error = diagnosis.suspect
        producer.start(worker.fatal)
        with _measured(settings, metrics, worker, history, diagnosis) as monitor:
            checks["kafka"] = diagnosis.named(
                "kafka", lambda: monitor.with_cause(worker.problem() or monitor.problem())
            )
            notes += [lambda: list(filter(None, [monitor.blocked(optional=True)])), worker.notes]
            worker.run()
            producer.close()
        log.info("stopped", role="enrich")
        return Exit.OK
    finally:
        diagnosis.stop()
        if history is not None:
            history.stop()
        source.stop()
        health.close()


def _pipeline(
    settings: Settings, cluster: Cluster, source: Source, producer: RecordProducer, metrics: EnrichMetrics
) -> Pipeline:
    """Put together what happens to a batch, without the routes."""
    profile = partial(profile_number, frozenset(settings.profile_labels_left_out)) if settings.pairs else None
    enricher = Enricher(cluster, settings.labels, profile=profile)
    pending = PendingVerdicts(
        enricher, source.synced_until_ns, int(settings.attribution_wait * 1e9), settings.pending_bytes, time.time_ns,
        cluster.addresses.reported_until_ns,
    )  # fmt: skip
    metrics.pending_bytes.set_function(lambda: pending.bytes)
    return Pipeline(
        settings.topics,
        settings.cluster,
        enricher,
        lambda uid: _node_of(cluster, uid),
        producer,
        metrics,
        socket.gethostname(),
        pending,
    )


def _route(pipeline: Pipeline, worker: EnrichWorker, routing: Routing) -> Check:
    """Send records by routes, too; return what may be wrong with them."""
    pipeline.routing = worker.refusals.routing = routing
    return routing.problem


def profile_number(left_out: Collection[str], pod: Pod, labels: Labels, workload: Owner | None) -> str:
    """Return the number of a pod's profile, made without some labels."""
    seen = pod if labels is pod.labels else msgspec.structs.replace(pod, labels=labels)
    return number_of(profile_of(seen, workload, left_out))


def _prepare_topics(settings: Settings, own_topics: OwnTopics, stop: threading.Event) -> bool:
    """Create the topics; return False if stopped meanwhile. Raises StopServiceError."""
    topics = settings.topics
    others = [
        (topics.checkpoints, "verdicts that vanish between two workers will not be noticed"),
        (topics.ended, "reports of connections cannot be written: give the right before WEIR_ENDS is set"),
    ]
    if settings.journal_days:
        others.append((topics.journal, "the role journal cannot keep what policies say"))
    if settings.pairs:
        others.append((topics.pairs, "pairs will not be counted"))
    later = {topics.journal.name, topics.pairs.name, *(topic.name for topic, _ in others)}
    if not own_topics.prepare(topic for topic in topics if topic.name not in later):
        return False
    for topic, consequence in others:
        try:
            if not prepare_topics(settings.connection(), [topic], settings.replication, stop):
                return False
        except StopServiceError as error:
            # The topics may have been made by hand for an earlier version. Verdicts matter more than these.
            log.error(consequence, error=str(error))
    return True


def _history(settings: Settings, cluster: Cluster, metrics: EnrichMetrics) -> AddressHistory:
    connection, topic = settings.connection(), settings.topics.endpoints.name
    history = AddressHistory(lambda: TopicReader(connection, topic), cluster, settings.cluster, metrics, topic)
    cluster.addresses.reported_until_ns = history.synced_until_ns
    return history


@contextlib.contextmanager
def _measured(
    settings: Settings, metrics: EnrichMetrics, worker: EnrichWorker, history: AddressHistory, diagnosis: Diagnosis
) -> Iterator[LagMonitor]:
    """Measure the worker's group and the reader of the address history. Raises StopServiceError after a long stall."""
    topics = settings.topics
    monitor = LagMonitor(settings.connection(), settings.stall, metrics.progress, diagnosis.causes)
    own = Followed(settings.group("enrich"), [topics.raw.name], lambda: worker.partitions or ())
    # A second client would inflate any batch that it finds there; the worker's own has a bound.
    own.has_record = worker.has_record
    own.reads_uncommitted = True
    monitor.follow(own)
    monitor.follow(
        Followed(
            settings.group("enrich.history"),
            [topics.endpoints.name],
            lambda: list(history.positions),
            positions=lambda: dict(history.positions),
            needs=(reader_group(topics.endpoints.name),),
        )
    )
    # Flows do not wait for the counts of pairs.
    monitor.suspect(
        Suspect(lambda: bool(worker.notes()), settings.group("pairs"), (), [topics.raw.name], is_optional=True)
    )
    monitor.start(lambda: signal.raise_signal(signal.SIGTERM))
    try:
        yield monitor
    finally:
        monitor.stop()
    monitor.check()


def _source(settings: Settings, cluster: Cluster) -> Source:
    try:
        return make_source(settings.source, cluster)
    except SourceError as error:
        raise StopServiceError(str(error), Exit.USAGE) from error


def _start(source: Source) -> None:
    try:
        source.start()
    except SourceError as error:
        raise StopServiceError(str(error), Exit.USAGE) from error


def _wait(ready: threading.Event, stop: threading.Event) -> None:
    """Wait until the event or the stop is set. Nothing is enriched before the index and the history are complete."""
    while not stop.is_set() and not ready.wait(0.1):
        pass


def _node_of(cluster: Cluster, uid: str) -> str:
    pod = cluster.addresses.pod_by_uid(uid)
    return pod.node if pod else ""
