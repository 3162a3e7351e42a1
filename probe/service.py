"""The probe as a service: puts its parts together, runs them until SIGTERM, and stops them in order.

Verdicts flow from :class:`Ring` through :class:`Drain` into :class:`Spool`, and from there by :class:`Publisher` to
Kafka. Policy flows from a source of objects through :class:`Cluster` to :class:`Agent`, which writes the kernel's maps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from enrich.diagnosis.watch import Diagnosis
from enrich.index.cluster import PROBE_KINDS, Cluster
from enrich.runtime.credentials import CredentialWatch, registry_with_credentials
from enrich.runtime.dead_threads import dead_thread, end_on_dead_threads
from enrich.runtime.health import HealthServer
from enrich.runtime.process import Exit, StopServiceError, only_instance, stop_on_signals
from enrich.runtime.watching import SourceCollector, kept_notes
from enrich.sources.client import Client
from enrich.sources.factory import make_source
from enrich.sources.metrics_guard import metrics_guard
from enrich.sources.source import Source, SourceError
from enrich.wire.topics import topics
from probe.agent import Agent
from probe.cluster_id import find_cluster_id, other_cluster
from probe.cni.metrics import CniCollector
from probe.cni.plugin import Plugin
from probe.cni.pod_lookup import PodLookup
from probe.datapath_refusal import no_other_datapath
from probe.enforcement_end import end_enforcement
from probe.export.batcher import Limits
from probe.export.drain import Drain
from probe.export.earlier_ring import EarlierRing
from probe.export.interval_publisher import AddressIntervalPublisher
from probe.export.publisher import Publisher
from probe.export.ring import Ring
from probe.export.spool import Spool
from probe.kafka_diagnosis import kafka_diagnosis
from probe.kernel.attach import Mode
from probe.kernel_words import configure
from probe.ledger import Ledger, LedgerReferences
from probe.ledger_compaction import LedgerCompaction
from probe.map_sizes import SizeCollector, open_sized_generation, sizes_of
from probe.metrics import ProbeCollector, last_success
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock
from probe.node.netlink import NodeNetwork
from probe.node.network_view import NetworkView
from probe.node.ownership import Ownership
from probe.node.startup_taint import StartupTaint
from probe.numbers_in_use import reserve_numbers
from probe.other_datapaths import OtherDatapaths
from probe.policy.logging import LoggingDefaults
from probe.settings import Settings
from probe.share_metrics import ShareCollector
from probe.state_metrics import StateCollector
from probe.tallies import Tallies
from probe.unknown_interfaces import Rules

log = structlog.get_logger("kubeweir.probe")

_INTERVALS_FLUSH_S: Final = 1.0
_SPOOL_FLUSH_S: Final = 8.0
"""How long the probe tries to send the rest when it stops; batches without an acknowledgement stay in the spool."""
MODES: Final[dict[str, Mode | None]] = {"auto": None, "tcx": "tcx", "clsact": "clsact"}


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a probe that does not run yet."""

    network: NodeNetwork
    ledger: Ledger
    ring: Ring
    spool: Spool
    intervals: AddressIntervals
    interval_publisher: AddressIntervalPublisher
    agent: Agent
    drain: Drain
    publisher: Publisher
    plugin: Plugin | None

    def is_enforcing(self) -> bool:
        """Return whether the kernel has the cluster's policy."""
        return self.agent.problem() is None

    def change_cluster(self, cluster: str) -> None:
        """Go on in the name of another cluster than before."""
        self.drain.change_cluster(cluster)
        self.intervals.start(cluster)

    def renew_credentials(self, settings: Settings) -> None:
        """Send by new clients, which read the credentials again. Raises SettingsError."""
        connection = settings.connection()
        self.publisher.renew(connection)
        self.interval_publisher.renew(connection)

    def has_failed(self) -> bool:
        """Return whether a part died of an unexpected error."""
        return any(part.failed.is_set() for part in (self.agent, self.drain, self.publisher))


def serve(settings: Settings) -> None:
    """Run the probe until SIGTERM. Raises StopServiceError."""
    if settings.cluster == "*":
        raise StopServiceError("WEIR_CLUSTER=*: a node belongs to one cluster: set its id, or nothing", Exit.USAGE)
    stop = stop_on_signals()
    end_on_dead_threads(stop.set)
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_instance(settings.run_dir / "probe.lock"))
        others = stack.enter_context(no_other_datapath(settings, stop))
        if stop.is_set():
            return
        cluster = Cluster(kinds=PROBE_KINDS)
        source = stack.enter_context(_started(settings, cluster))
        credentials = CredentialWatch(settings, lambda: parts.renew_credentials(settings))
        parts = _assemble(settings, source, cluster, stack)
        diagnosis = stack.enter_context(kafka_diagnosis(settings))
        health = stack.enter_context(contextlib.closing(_serve_health(settings, source, parts, diagnosis, others)))

        def has_ended() -> bool:
            return stop.is_set() or parts.has_failed()

        owner = _owner(settings, stack)
        parts.agent.start(settings.deny_window)
        if parts.plugin:
            parts.plugin.start()
        if settings.startup_taint:
            taint = StartupTaint(settings.startup_taint, settings.node, _connected(), parts.is_enforcing)
            taint.start()
            stack.callback(taint.stop)
        parts.publisher.start()
        stack.enter_context(credentials.running())
        cluster_id = find_cluster_id(settings, cluster, parts.drain.known_cluster(), has_ended)
        if cluster_id is not None:
            parts.drain.start(cluster_id, settings.node)
            parts.intervals.start(cluster_id)
            log.info("started", node=settings.node, cluster=cluster_id, ring=parts.ring.id, attach=parts.agent.mode,
                     kafka=settings.kafka, source=settings.source, metrics_port=health.port,
                     sizes=sizes_of(parts.agent.generation.maps))  # fmt: skip
        while not has_ended():
            stop.wait(0.2)
            if cluster_id is not None and (other := other_cluster(settings, cluster, cluster_id)):
                cluster_id = other
                parts.change_cluster(other)

        def enforcement_ends() -> bool:
            return owner is not None and stop.is_set() and owner.is_over()

        # Requested before and after the flush, which takes a while: the DaemonSet may be deleted meanwhile, or the
        # service account by which we can ask.
        ends = enforcement_ends()
        flushed = _stop(parts)
        if ends or enforcement_ends():
            log.info("our DaemonSet was deleted: enforcement ends", interfaces=end_enforcement(settings, parts.network))
        log.info("stopped", flushed=flushed, spooled_batches=parts.spool.unacked_batches,
                 enforcement="stays in place" if settings.pin_dir.exists() else "ended")  # fmt: skip
        _raise_failure(parts)


def _assemble(settings: Settings, source: Source, cluster: Cluster, stack: contextlib.ExitStack) -> _Parts:
    """Make the parts; ``stack`` closes those that need it."""
    network = stack.enter_context(contextlib.closing(NodeNetwork(settings.netns)))
    generation = open_sized_generation(settings, _connected() if settings.source == "kubernetes" else None)
    stack.callback(generation.close)
    maps = generation.maps
    configure(maps, settings, network)
    ledger = stack.enter_context(contextlib.closing(Ledger.open(settings.run_dir / "ledger")))
    ring = stack.enter_context(contextlib.closing(Ring(maps)))
    earlier = [EarlierRing(Ring(one.maps), one.retired, one.remove) for one in generation.predecessors]
    reserve_numbers(ledger, generation, (ring, *(one.ring for one in earlier)))
    spool = Spool(settings.state_dir / "spool", settings.spool_bytes, lazy=True)
    stack.callback(spool.close)
    names = topics(settings.topic_prefix, settings.partitions)
    interval_publisher = AddressIntervalPublisher(names.endpoints, settings.connection(), settings.stall)
    clock = LinkClock()
    view = NetworkView(network, clock)
    intervals = AddressIntervals(
        settings.node, settings.run_dir / "address-intervals", interval_publisher.publish, clock
    )
    publisher = Publisher(spool, names.raw, settings.connection(), settings.stall)
    intervals.ahead_ns = publisher.clock.ahead_ns
    agent = Agent(settings.node, cluster, view, generation, ledger, intervals, MODES[settings.attach], _rules(settings))
    agent.logging.defaults = LoggingDefaults(settings.logging, settings.log_default_allow, settings.feeds_all())
    agent.compaction = LedgerCompaction(ledger, ring, ends=ring.ends)
    tallies = Tallies(agent, source.age_s, ring, publisher, settings.heartbeat)
    drain = Drain(ring, LedgerReferences(ledger), spool, _limits(settings), earlier, lambda: publisher.clock.skew,
                  tallies.of, (publisher.settled.note_appended, tallies.note_appended))  # fmt: skip
    return _Parts(
        network=network, ledger=ledger, ring=ring, spool=spool, intervals=intervals,
        interval_publisher=interval_publisher, agent=agent, drain=drain, publisher=publisher,
        plugin=_plugin(settings, cluster, network, agent),
    )  # fmt: skip


def _plugin(settings: Settings, cluster: Cluster, network: NodeNetwork, agent: Agent) -> Plugin | None:
    """Make the node's end of the CNI plugin, if the settings want it."""
    if settings.cni == "off":
        return None
    ask = PodLookup(_connected()) if settings.source == "kubernetes" else None
    return Plugin(settings, cluster, network, agent.assignments, agent, ask)


def _rules(settings: Settings) -> Rules:
    try:
        return Rules(settings.closes_unknown(), settings.pod_interfaces, settings.pod_cidrs)
    except ValueError as error:
        raise StopServiceError(f"WEIR_POD_CIDRS: {error}", Exit.USAGE) from error


def _serve_health(
    settings: Settings, source: Source, parts: _Parts, diagnosis: Diagnosis, others: OtherDatapaths
) -> HealthServer:
    plugin, maps, registry = parts.plugin, parts.agent.generation.maps, registry_with_credentials(settings)
    export = parts.drain, parts.spool, parts.publisher, parts.interval_publisher
    for collector in (
        SourceCollector("probe", source),
        ProbeCollector(parts.agent, maps, parts.ring, *export),
        ShareCollector(maps, parts.ledger),
        StateCollector(),
        others,
        SizeCollector(settings, sizes_of(maps)),
        *([CniCollector(plugin.requests)] if plugin else []),
    ):
        registry.register(collector)
    ready = {
        "source": source.problem,
        "policy": parts.agent.problem,
        "datapath": others.problem,
        "spool": lambda: parts.drain.problem,
        "kafka": diagnosis.named("kafka", lambda: parts.publisher.problem),
        "address_intervals": lambda: parts.interval_publisher.problem,
        "state": lambda: source.state_problem() or parts.ledger.problem or parts.intervals.problem,
    }
    if plugin:
        ready["cni"] = plugin.problem
    ages = last_success(registry, source, parts.publisher, parts.interval_publisher)
    sources = parts.agent.notes, others.notes, lambda: kept_notes(source), parts.publisher.clock.notes
    notes, guard = lambda: [line for make in sources for line in make()], metrics_guard(settings)
    return HealthServer(settings.metrics, registry, ready, notes, ages.in_words, guard)


def _stop(parts: _Parts) -> bool:
    """Stop the threads in the order of the data; return whether Kafka has every batch."""
    if parts.plugin:
        parts.plugin.stop()
    parts.agent.stop()
    parts.drain.stop()
    flushed = parts.publisher.stop(_SPOOL_FLUSH_S)
    parts.interval_publisher.stop(_INTERVALS_FLUSH_S)
    return flushed


def _raise_failure(parts: _Parts) -> None:
    reason = dead_thread() or ("a part of the probe failed, see the log above" if parts.has_failed() else "")
    if reason:
        raise StopServiceError(reason, Exit.UNEXPECTED)


@contextlib.contextmanager
def _started(settings: Settings, cluster: Cluster) -> Iterator[Source]:
    try:
        source = make_source(settings.source, cluster, settings.state_dir / "policies")
        source.start()
    except SourceError as error:
        raise StopServiceError(str(error), Exit.USAGE) from error
    try:
        yield source
    finally:
        source.stop()


def _owner(settings: Settings, stack: contextlib.ExitStack) -> Ownership | None:
    """Start to watch the DaemonSet whose deletion ends enforcement, if the settings name one."""
    if not settings.daemonset:
        return None
    owner = Ownership(settings.daemonset, _connected(), needs_confirmation=settings.prune_guard)
    owner.start()
    stack.callback(owner.stop)
    return owner


def _connected() -> Client:
    """Return a client of the API server."""
    client = Client()
    try:
        client.connect()
    except SourceError as error:
        raise StopServiceError(str(error), Exit.USAGE) from error
    return client


def _limits(settings: Settings) -> Limits:
    wait_s = settings.batch_allowed_wait
    return Limits(verdicts=settings.batch_verdicts, denied_s=settings.batch_denied_wait, allowed_s=wait_s,
                  quiet_s=4 * wait_s, heartbeat_s=settings.heartbeat)  # fmt: skip
