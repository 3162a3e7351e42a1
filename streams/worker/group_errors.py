"""Lets Faust's client, aiokafka, ask again after Kafka has refused it something about its group.

aiokafka stops asking, and waits until its user has taken the error (by a call of ``getmany``). Faust never makes that
call: it takes records from a layer below. So a worker that once had no right on its group would wait for ever, also
when it has the right again.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Final

from aiokafka.errors import KafkaError

_LOOK_S: Final = 2.0


def take_group_errors(app: Any, ended: threading.Event) -> None:
    """Take the errors of a Faust application's group, one every few seconds, until ``ended``. aiokafka logs them."""
    while not ended.wait(_LOOK_S):
        # Faust gives out no client of aiokafka's. It runs on a thread of its own.
        thread: Any = getattr(app._consumer, "_thread", None)
        coordinator: Any = getattr(getattr(thread, "_consumer", None), "_coordinator", None)
        if coordinator is not None and getattr(coordinator, "_pending_exception", None) is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the application ends
                thread.thread_loop.call_soon_threadsafe(_take, coordinator)


def _take(coordinator: Any) -> None:
    with contextlib.suppress(KafkaError):
        coordinator.check_errors()
