"""The end of the worker that enriches (``streams.worker.faust_app``)."""

from __future__ import annotations

import subprocess
import sys

STOPPED_AT_ONCE = """
import contextlib
import sys
import threading
from prometheus_client import CollectorRegistry
from enrich.runtime.settings import load
from streams.metrics.roles import EnrichMetrics
from streams.settings import Settings
from streams.worker.faust_app import EnrichWorker

stop = threading.Event()
stop.set()
settings = load(Settings, {"WEIR_KAFKA": "127.0.0.1:1", "WEIR_STOP_TIMEOUT": "5"})
with contextlib.suppress(Exception):  # there is no Kafka
    EnrichWorker(settings, None, None, EnrichMetrics(CollectorRegistry()), stop, lambda: None).run()
for thread in threading.enumerate():
    if thread.name == "stop-watch":
        thread.join()
sys.exit(7)
"""


def test_the_stop_of_a_worker_that_has_ended_is_watched_no_longer() -> None:
    """Its role may have more to do, such as to rewind its group, and to say why it ends."""
    done = subprocess.run([sys.executable, "-c", STOPPED_AT_ONCE], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "stopped waiting for Kafka" not in done.stdout + done.stderr
