"""The worker that enriches (``streams.worker.faust_app``): when it is well, and how it ends."""

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


NOT_IN_ITS_GROUP = """
import asyncio
import sys
import threading
from prometheus_client import CollectorRegistry
from enrich.runtime.settings import load
from streams.metrics.roles import EnrichMetrics
from streams.settings import Settings
from streams.worker.faust_app import EnrichWorker

class Forgetful:
    def forget(self, partitions):
        assert partitions == []

async def begin_to_join():
    # As aiokafka does before each join, also before the first one.
    await worker._on_revoked(None, [])
    print(worker.problem())
    worker._on_group_error("no right")
    print(worker.problem())
    await worker._on_revoked(None, [])
    print(worker.problem())
    await worker._on_assigned(None, [])
    print(worker.problem())
    await worker._on_revoked(None, [])
    print(worker.problem())

settings = load(Settings, {"WEIR_KAFKA": "127.0.0.1:1", "WEIR_PAIRS": "0"})
metrics = EnrichMetrics(CollectorRegistry())
worker = EnrichWorker(settings, Forgetful(), None, metrics, threading.Event(), lambda: None)
worker._takeover = Forgetful()
worker.on_group_error = lambda: print("looking for the cause")
worker._loop.run_until_complete(begin_to_join())
"""


def test_a_worker_is_not_well_before_it_is_in_its_group_and_while_it_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", NOT_IN_ITS_GROUP], capture_output=True, text=True, check=False)
    refused = "Kafka refuses this worker as a member of its group: no right"
    said = [line for line in done.stdout.splitlines() if "[" not in line]
    assert said == [
        "no partitions of the raw topic have been assigned yet", "looking for the cause", refused, refused,
        # It stands by, and Kafka gives partitions to others while it joins again.
        "None", "None",
    ], done.stderr  # fmt: skip


def test_the_stop_of_a_worker_that_has_ended_is_watched_no_longer() -> None:
    """Its role may have more to do, such as to rewind its group, and to say why it ends."""
    done = subprocess.run([sys.executable, "-c", STOPPED_AT_ONCE], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "stopped waiting for Kafka" not in done.stdout + done.stderr
