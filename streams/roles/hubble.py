"""The role `hubble`: puts the census, the gRPC server and the checks together."""

from __future__ import annotations

import os
import threading
from functools import partial

from enrich.diagnosis.rights import Needs
from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.settings import SettingsError
from enrich.runtime.version import version_text
from streams.hubble.answering import Topics
from streams.hubble.census import Census, CensusThread
from streams.kafka.followed import WatchedThread
from streams.kafka.open_transactions import Suspect
from streams.kafka.reading import TopicReader, reader_group
from streams.metrics.hubble import HubbleMetrics
from streams.metrics.progress import CALLS_OF_HUBBLE
from streams.roles.running_role import RunningRole, log, run_role
from streams.settings import Settings

_GRACE_S = 1.0


def run_hubble(settings: Settings, stop: threading.Event) -> int:
    """Run until ``stop``; return the exit code. Raises StopServiceError."""
    return run_role("hubble", settings, stop, CALLS_OF_HUBBLE, _work)


def _work(role: RunningRole) -> None:
    # Its own log lines are not JSON. It reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from streams.hubble.server import Certificates, check_address, start_server  # noqa: PLC0415 - an extra
        from streams.hubble.service import About, Observer  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        text = "the role hubble needs the package grpcio, which the image has: pip install '.[hubble]' in a clone"
        raise StopServiceError(f"{text} ({error})", Exit.UNABLE) from error
    settings, metrics = role.settings, HubbleMetrics(role.registry)
    address = settings.hubble or "127.0.0.1:4245"
    files = (settings.hubble_certificate, settings.hubble_key, settings.hubble_client_ca)
    certificates = Certificates(*files) if all(files) else None  # type: ignore[arg-type]  # all of them are set
    if any(files) and certificates is None:
        raise SettingsError("WEIR_HUBBLE_CERTIFICATE, WEIR_HUBBLE_KEY and WEIR_HUBBLE_CLIENT_CA must be set together")
    # A mistake is reported at once, not only when Kafka can be reached.
    check_address(address, certificates)
    role.find_cluster(every=True)
    names = settings.topics
    read = frozenset({names.flows.name, names.denied.name, names.status.name})
    role.needs = Needs(reads=read, groups=frozenset(map(reader_group, read)))
    if not role.prepare_topics(names.flows, names.denied, names.status):
        return
    census = Census(role.settings.cluster)
    open_reader = partial(TopicReader, settings.connection())
    thread = CensusThread(census, lambda: map(open_reader, (names.flows.name, names.status.name)), role.progress.note)
    observer = Observer(
        Topics(settings.connection(), names.flows.name, names.denied.name, names.status.name, role.settings.cluster),
        census,
        metrics,
        About(version_text(), settings.labels, settings.hubble_streams, address, certificates is not None),
        problem=role.diagnosis.named("hubble-api", thread.problem),
        stop=role.stop,
    )
    try:
        server, port = start_server(address, observer.handlers(), settings.hubble_streams, certificates)
    except OSError as error:
        raise StopServiceError(str(error), Exit.RUNNING) from error
    role.stack.callback(lambda: server.stop(_GRACE_S).wait(2 * _GRACE_S))
    log.info("serving Hubble's API", role="hubble", port=port, encrypted=certificates is not None)
    thread.start()
    role.stack.callback(thread.stop)
    role.monitor.watch(WatchedThread("the census of flows", lambda: thread.turns, tuple(read)))
    role.monitor.suspect(Suspect(lambda: True, reader_group(names.flows.name), sorted(read)))
    role.begin(thread.problem, role.monitor.problem)
    role.stop.wait()
