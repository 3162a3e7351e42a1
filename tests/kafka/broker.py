"""A real Apache Kafka for the tests, on a random loopback port; it stops with the test run, however that ends."""

from __future__ import annotations

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
PATIENCE_S = 150
"""A broker's start takes 3 s, and up to 50 on a machine that runs other brokers and compilers. Its end is noticed."""


def run_broker(folder: Path, *options: str, client: dict[str, str] | None = None) -> Iterator[str]:
    """host:port of a broker that answers. ``client``: further settings that librdkafka needs to reach it."""
    port = free_port()
    with (folder / "broker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "run", "--dir", str(folder / "broker"), "--port", str(port), *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    attach("Apache Kafka", process, folder / "broker.log")
    try:
        _wait_until_it_answers(
            {"bootstrap.servers": f"127.0.0.1:{port}", **(client or {})}, process, folder / "broker.log"
        )
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(connection: dict[str, str], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Apache Kafka ended at once (has deploy/local/setup run?): {log.read_text()[-2000:]}")
        try:
            # An authority's file that the broker has not made yet is an error too.
            AdminClient({**connection, "log_level": 0}).list_topics(timeout=1)
        except KafkaException:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"Apache Kafka does not answer: {log.read_text()[-2000:]}")
