"""``weir-probe``: the node agent as a process. The one place where its parts are put together."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from enrich.index.cluster import POLICY_KINDS, Cluster
from enrich.model import Name
from enrich.runtime.health import HealthServer
from enrich.runtime.process import Exit, StopServiceError, configure_logs, fail, only_instance, stop_on_signals
from enrich.runtime.settings import SettingsError, describe, load
from enrich.runtime.watching import SourceCollector
from enrich.sources.client import Client
from enrich.sources.factory import make_source
from enrich.sources.source import Source, SourceError
from enrich.wire.topics import topics
from probe.agent import Agent, LedgerReferences, detach
from probe.export.batcher import Limits
from probe.export.drain import Drain
from probe.export.interval_publisher import AddressIntervalPublisher
from probe.export.publisher import Publisher
from probe.export.ring import Ring
from probe.export.spool import Spool
from probe.kernel.attach import Mode
from probe.kernel.layout import VERSION, Config
from probe.kernel.maps import LayoutError, Maps
from probe.kernel.program import LoadError
from probe.ledger import Ledger
from probe.metrics import ProbeCollector
from probe.node.address_intervals import AddressIntervals
from probe.node.netlink import NetworkError, NodeNetwork
from probe.node.ownership import Ownership
from probe.settings import Settings

log = structlog.get_logger("kubeweir.probe")

_LAST_WORD_S: Final = 1.0
_FLUSH_S: Final = 8.0
"""What is not acknowledged by then stays in the spool, for the next start."""
_MODES: Final[dict[str, Mode | None]] = {"auto": None, "tcx": "tcx", "clsact": "clsact"}


def serve(settings: Settings) -> None:
    """Run until SIGTERM. Raises StopServiceError."""
    _check_machine(settings)
    stop = stop_on_signals()
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_instance(settings.run_dir / "probe.lock"))
        cluster = Cluster(kinds=POLICY_KINDS)
        source = stack.enter_context(_started(settings, cluster))
        network = NodeNetwork(settings.netns)
        stack.callback(network.close)
        maps = Maps.open(settings.pin_dir / VERSION, settings.sizes())
        maps.configure(Config.POD_DENIED_FLOWS, settings.pod_denied_flows)
        maps.configure(Config.POD_CONNECTIONS, settings.pod_connections)
        stack.callback(maps.close)
        numbers = Ledger.open(settings.run_dir / "ledger")
        stack.callback(numbers.close)
        ring = Ring(maps)
        stack.callback(ring.close)
        spool = Spool(settings.state_dir / "spool", settings.spool_bytes)
        stack.callback(spool.close)
        made = topics(settings.topic_prefix, settings.partitions)
        publisher = Publisher(spool, made.raw, settings.connection())
        endpoints = AddressIntervalPublisher(made.endpoints, settings.connection())
        holds = AddressIntervals(settings.node, settings.run_dir / "holds", endpoints.publish)
        delivery = Drain(ring, LedgerReferences(numbers), spool, _limits(settings))
        agent = Agent(settings.node, cluster, network, maps, numbers, holds, _MODES[settings.attach])
        registry = _registry(SourceCollector("probe", source),
                             ProbeCollector(agent, maps, ring, delivery, spool, publisher))  # fmt: skip
        ready = {
            "source": source.problem,
            "policy": agent.problem,
            "spool": lambda: delivery.problem,
            "kafka": lambda: publisher.problem,
        }
        health = HealthServer(settings.metrics, registry, ready)
        stack.callback(health.close)
        failures = (agent.failed, delivery.failed, publisher.failed)

        def has_ended() -> bool:
            return stop.is_set() or any(failed.is_set() for failed in failures)

        owner = _owner(settings, stack)
        agent.start(settings.deny_window)
        publisher.start()
        cluster_id = _cluster_id(settings, cluster, delivery.cluster, has_ended)
        if cluster_id is not None:
            delivery.start(cluster_id, settings.node)
            holds.begin(cluster_id)
            log.info("started", node=settings.node, cluster=cluster_id, ring=ring.id, attach=agent.mode,
                     kafka=settings.kafka, source=settings.source, metrics_port=health.port)  # fmt: skip
        while not has_ended():
            stop.wait(0.2)
        over = owner is not None and stop.is_set() and owner.is_over()
        agent.stop()
        delivery.stop()
        flushed = publisher.stop(_FLUSH_S)
        endpoints.stop(_LAST_WORD_S)
        if over or (owner is not None and stop.is_set() and owner.is_over()):
            log.info("our DaemonSet is deleted: enforcement ends", interfaces=_open(settings, network))
        log.info("stopped", flushed=flushed, spooled_batches=spool.unacked_batches,
                 enforcement="stays in place" if settings.pin_dir.exists() else "ended")  # fmt: skip
        _check_end(publisher, any(failed.is_set() for failed in failures))


def _check_end(publisher: Publisher, has_failed: bool) -> None:
    if publisher.failed.is_set():
        raise StopServiceError(f"{publisher.problem}", Exit.KAFKA)
    if has_failed:
        raise StopServiceError("a part failed, see the log above", Exit.UNEXPECTED)


def _registry(*collectors: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


@contextlib.contextmanager
def _started(settings: Settings, cluster: Cluster) -> Iterator[Source]:
    try:
        source = make_source(settings.source, cluster)
        source.start()
    except SourceError as error:
        raise StopServiceError(str(error), Exit.USAGE) from error
    try:
        yield source
    finally:
        source.stop()


def _owner(settings: Settings, stack: contextlib.ExitStack) -> Ownership | None:
    """The DaemonSet whose deletion ends enforcement, if there is one."""
    if not settings.daemonset:
        return None
    client = Client()
    try:
        client.connect()
    except SourceError as error:
        raise StopServiceError(str(error), Exit.USAGE) from error
    owner = Ownership(settings.daemonset, client)
    owner.start()
    stack.callback(owner.stop)
    return owner


def _limits(settings: Settings) -> Limits:
    return Limits(
        verdicts=settings.batch_verdicts,
        denied_s=settings.batch_denied,
        allowed_s=settings.batch_allowed,
        quiet_s=4 * settings.batch_allowed,
        heartbeat_s=settings.heartbeat,
    )


def _cluster_id(settings: Settings, cluster: Cluster, known: str | None, is_over: Callable[[], bool]) -> str | None:
    """The setting, or what is ``known`` since the ring was made, else what the source says. None: over before that."""
    if settings.cluster or known:
        return settings.cluster or known
    while not cluster.synced.wait(0.2):
        if is_over():
            return None
    system = cluster.namespaces().get(Name("", "kube-system"))
    return system.uid if system else "default"


def _check_machine(settings: Settings) -> None:
    """What a person can mend is said in a line."""
    if settings.attach not in _MODES:
        raise StopServiceError(f"WEIR_ATTACH={settings.attach!r}: must be auto, tcx or clsact", Exit.USAGE)
    if settings.ring_bytes & (settings.ring_bytes - 1):
        raise StopServiceError(f"WEIR_RING_BYTES={settings.ring_bytes}: must be a power of two", Exit.USAGE)
    if os.geteuid() != 0:
        raise StopServiceError("must run as root, or with the capabilities BPF, NET_ADMIN and PERFMON", Exit.UNABLE)
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release < (5, 10):
        raise StopServiceError(f"kernel {os.uname().release} is too old: 5.10 is needed", Exit.UNABLE)
    if release < (5, 11):
        # From 5.11 the memory cgroup pays for maps. Before, bcc lifts the limit where the kernel lets it.
        log.info("the maps' memory counts against RLIMIT_MEMLOCK on this kernel", kernel=os.uname().release)
    if not _is_bpffs(settings.pin_dir):
        raise StopServiceError(
            f"{settings.pin_dir} is not in a BPF file system: mount -t bpf bpf /sys/fs/bpf", Exit.UNABLE
        )


def _is_bpffs(path: Path) -> bool:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(len(fields[1]), fields[2]) for fields in mounts if path.is_relative_to(fields[1])]
    return max(inside)[1] == "bpf"


class _Command(click.Group):
    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\nSettings, from the environment [default]:\n" + describe(Settings) + "\n")
        formatter.write(
            "\nExit codes: 0 stopped, 2 settings or bad input, 3 cannot run here, 4 runs already, 5 Kafka\n"
        )


@click.group(cls=_Command, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Enforce network policy at every pod of this node, and publish every verdict to Kafka.

    Runs until SIGTERM. Enforcement stays in place when it ends: the next start adopts it, `weir-probe detach` ends it.
    """
    if context.invoked_subcommand is None:
        context.exit(_shell(serve))


@command.command("detach")
@click.pass_context
def detach_command(context: click.Context) -> None:
    """End enforcement: remove every filter, link, map and pin. Pods are then open."""
    context.exit(_shell(_detach))


def _detach(settings: Settings) -> None:
    _check_machine(settings)
    with only_instance(settings.run_dir / "probe.lock"):
        network = NodeNetwork(settings.netns)
        try:
            freed = _open(settings, network)
        finally:
            network.close()
    click.echo(f"weir-probe: enforcement ended on {freed} interfaces, nothing is pinned any more")


def _open(settings: Settings, network: NodeNetwork) -> int:
    """End enforcement; the number of interfaces that were set free. What is known of them goes with them."""
    freed = detach(settings.pin_dir, network)
    for name in ("ledger", "holds"):
        (settings.run_dir / name).unlink(missing_ok=True)
    return freed


def _shell(work: Callable[[Settings], None]) -> int:
    try:
        settings = load(Settings, os.environ)
        configure_logs(settings.log_level, settings.log_format)
        work(settings)
    except SettingsError as error:
        return fail(StopServiceError(str(error), Exit.USAGE), "weir-probe")
    except StopServiceError as error:
        return fail(error, "weir-probe")
    except LoadError as error:
        log.debug("the compiler said", log=error.log)
        return fail(StopServiceError(str(error), Exit.UNABLE), "weir-probe")
    except (LayoutError, NetworkError) as error:
        return fail(StopServiceError(str(error), Exit.UNABLE), "weir-probe")
    except OSError as error:
        if error.filename is None:
            raise
        return fail(StopServiceError(f"{error.filename}: {error.strerror}", Exit.UNABLE), "weir-probe")
    return Exit.OK


def main() -> None:
    """The console script."""
    sys.exit(command())
