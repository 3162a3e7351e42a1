"""A real Apache Kafka for the tests, on a random loopback port; it stops with the test run, however that ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from ports import free_port

from tests.attachments import attach

PROGRAM = Path(__file__).parents[2] / "deploy" / "local" / "kafka"
PATIENCE_S = 240
"""A broker's start takes 3 s, and up to 50 on a machine that runs other brokers and compilers. Its end is noticed."""

IMPATIENT = {"log_level": 0, "reconnect.backoff.max.ms": 200}
"""librdkafka's settings of a client that waits for brokers that are about to start."""


def run_broker(folder: Path, *options: str, client: dict[str, str] | None = None) -> Iterator[str]:
    """host:port of a broker that answers. ``client``: further settings that librdkafka needs to reach it."""
    port = free_port()
    process = start_broker(folder, port, *options)
    try:
        wait_until_it_answers(process, folder, port, client)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


running_broker = contextlib.contextmanager(run_broker)
"""A broker for a ``with`` statement."""


def log_bytes(folder: Path, topic: str) -> int:
    """Return how many bytes a topic of one partition has in the folder of a broker."""
    return sum(file.stat().st_size for file in folder.glob(f"**/{topic}-0/*.log"))


def start_broker(folder: Path, port: int, *options: str) -> subprocess.Popen[bytes]:
    """Start a broker, whose data and log stay in the folder. :func:`wait_until_it_answers` waits for it."""
    log = folder / "broker.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "run", "--dir", str(folder / "broker"), "--port", str(port), *options],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    attach("Apache Kafka", process, log)
    return process


def wait_until_it_answers(
    process: subprocess.Popen[bytes], folder: Path, port: int, client: dict[str, str] | None = None
) -> None:
    """Wait for a broker that :func:`start_broker` has started. Raises RuntimeError if it ends, or does not answer."""
    log = folder / "broker.log"
    connection = {"bootstrap.servers": f"127.0.0.1:{port}", **(client or {}), **IMPATIENT}
    admin: AdminClient | None = None
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Apache Kafka ended at once (has deploy/local/setup run?): {log.read_text()[-2000:]}")
        # An authority's file that the broker has not made yet is an error too.
        with contextlib.suppress(KafkaException):
            # A new client for each look would never finish a TLS handshake that takes longer than the look.
            admin = admin or AdminClient(connection)
            if admin.list_topics(timeout=5).brokers:
                return
        time.sleep(0.1)
    raise RuntimeError(f"Apache Kafka does not answer: {log.read_text()[-2000:]}")
