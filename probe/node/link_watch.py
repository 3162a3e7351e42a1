"""Reads the kernel's link events: tells the link clock when, and a listener that, links changed."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from probe.node.link_clock import LinkClock
from probe.node.netlink import NodeNetwork

log = structlog.get_logger("kubeweir.probe")

_POLL_S: Final = 0.05
"""Poll interval for link events. The start and end of an interface are uncertain by at most this much while the probe
runs undisturbed; verdicts inside it are not attributed."""


def watch_links(
    network: NodeNetwork,
    clock: LinkClock,
    observe: Callable[[bytes | None], None],
    changed: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Read link events until ``stop`` is set, and call ``observe``, then ``changed`` after each read.

    ``observe`` gets what was read; None at the beginning, and when events were lost: then anything may have changed.
    """
    network.join()
    with contextlib.closing(network.subscribe()) as events:
        observe(None)
        while not stop.is_set():
            now_ns = time.time_ns()
            if not select.select([events], [], [], 0)[0]:
                clock.caught_up_ns = now_ns
                if not select.select([events], [], [], _POLL_S)[0]:
                    continue
            try:
                message = events.recv(1 << 16)
                clock.observe(message)
                observe(message)
            except OSError:
                # ENOBUFS: the kernel dropped events. The listener reads all links again, which replaces them.
                log.debug("link events were dropped: all links are read again")
                observe(None)
            changed()
    network.leave()
