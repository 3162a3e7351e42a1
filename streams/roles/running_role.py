"""What the roles `alerts` and `journal` and the sinks have in common: how they start, say what is wrong, and end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable

import structlog

from enrich.diagnosis.rights import Needs
from enrich.diagnosis.watch import Diagnosis
from enrich.runtime.credentials import registry_with_credentials
from enrich.runtime.health import Check, HealthServer
from enrich.runtime.process import Exit
from enrich.sources.metrics_guard import metrics_guard
from enrich.wire.topics import Topic
from streams.kafka.lag import LagMonitor
from streams.metrics.progress import ProgressMetrics
from streams.roles.own_cluster import OwnCluster
from streams.roles.own_topics import OwnTopics
from streams.settings import Settings

log = structlog.get_logger("kubeweir.streams")


class RunningRole:
    """A role from its start to its end."""

    def __init__(self, settings: Settings, stop: threading.Event, calls: Iterable[str]) -> None:
        """``calls``: what the role does on Kafka, as in ProgressMetrics."""
        self.settings, self.stop = settings, stop
        self.needs = Needs()
        """What the role does on Kafka. Groups have the cluster's id in their names, so none is named before it is
        known."""
        self.problems: list[Check] = [lambda: "Kafka has not been reached yet"]
        """The checks of the role. The first that fails says why the role is not ready."""
        self.registry = registry_with_credentials(settings)
        self.progress = ProgressMetrics(self.registry, calls)
        self.diagnosis = Diagnosis(settings.connection, lambda: self.needs)
        self.monitor = LagMonitor(settings.connection(), settings.stall, self.progress, self.diagnosis.causes)
        self.stack = contextlib.ExitStack()
        """Ends what the role's work has started, before the monitor stops."""

    def problem(self) -> str | None:
        """Return why the role is not ready, or None. A transaction that has not ended causes other problems."""
        return self.monitor.with_cause(next(filter(None, (check() for check in self.problems)), None))

    def find_cluster(self, *, every: bool = False) -> None:
        """Put the id of the worker's cluster into ``settings``; see :class:`OwnCluster`. Raises StopServiceError."""
        own_cluster = OwnCluster(self.settings, every=every)
        self.problems.insert(0, own_cluster.problem)
        self.settings = own_cluster.find(self.stop)

    def prepare_topics(self, *topics: Topic) -> bool:
        """Create the topics; return False if stopped meanwhile. Raises StopServiceError."""
        own_topics = OwnTopics(self.settings, self.stop)
        self.problems.insert(0, own_topics.problem)
        return own_topics.prepare(topics)

    def begin(self, *problems: Check) -> None:
        """Replace the checks of the start by those of the work, and begin to measure progress."""
        self.problems[:] = problems
        self.monitor.start(self.stop.set)


def run_role(
    name: str, settings: Settings, stop: threading.Event, calls: Iterable[str], work: Callable[[RunningRole], None]
) -> int:
    """Run a role until its work returns; return the exit code. Raises StopServiceError."""
    role = RunningRole(settings, stop, calls)
    checks = {name: role.diagnosis.named(name, role.problem)}
    health = HealthServer(settings.metrics, role.registry, checks, details=role.progress.last_success.in_words,
                          guard=metrics_guard(settings))  # fmt: skip
    log.info("starting", role=name, metrics_port=health.port, kafka=settings.kafka, prefix=settings.prefix)
    with role.stack as stack:
        stack.callback(health.close)
        role.diagnosis.start()
        stack.callback(role.diagnosis.stop)
        stack.callback(role.monitor.stop)
        work(role)
    role.monitor.check()
    log.info("stopped", role=name)
    return Exit.OK
