"""Keeps the probe from starting its work while another datapath owns the node's pods (:mod:`probe.other_datapaths`)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from enrich.runtime.credentials import registry_with_credentials
from enrich.runtime.health import HealthServer
from enrich.sources.metrics_guard import metrics_guard
from probe.cni.plugin import uninstall
from probe.node.netlink import NodeNetwork
from probe.other_datapaths import OtherDatapaths
from probe.settings import Settings


@contextlib.contextmanager
def no_other_datapath(settings: Settings, stop: threading.Event) -> Iterator[OtherDatapaths]:
    """Wait until no other datapath owns the pods, or until ``stop``; then look again until the context ends.

    Meanwhile the port answers, and is not ready. The wait is skipped if the node is under policy already: enforcement
    does not end because somebody has installed something else.
    """
    with contextlib.closing(NodeNetwork(settings.netns)) as network:
        others = OtherDatapaths(settings, network)
        if others.first_look(stop) and not others.enforces:
            _refuse(settings, others, stop)
        others.start()
        try:
            yield others
        finally:
            others.stop()


def _refuse(settings: Settings, others: OtherDatapaths, stop: threading.Event) -> None:
    if settings.cni == "on":
        # With an entry in the configuration and a probe that does not answer, no pod would start.
        uninstall(settings)
    registry = registry_with_credentials(settings)
    registry.register(others)
    guard = metrics_guard(settings)
    ready = {"datapath": others.problem}
    with contextlib.closing(HealthServer(settings.metrics, registry, ready, others.notes, guard=guard)):
        others.wait_until_gone(stop)
