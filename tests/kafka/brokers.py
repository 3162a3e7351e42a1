"""A real Apache Kafka of three brokers, each a process that can be killed, frozen and started again."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.attachments import attach
from tests.kafka.broker import IMPATIENT, PATIENCE_S, PROGRAM
from tests.kafka.reassignment import reassign
from tests.waiting import freeze

NUMBERS = (1, 2, 3)


class BrokerCluster:
    """Three brokers, which are the controllers too: three replicas, of which two must have a record."""

    def __init__(self, folder: Path, *options: str, client: Mapping[str, str] | None = None) -> None:
        """``options``: of deploy/local/kafka. ``client``: further settings that librdkafka needs to reach it."""
        self.folder = folder
        made = subprocess.run(
            [sys.executable, PROGRAM, "prepare", "--brokers", str(len(NUMBERS)), "--dir", folder, *options],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.address = made.stdout.strip()
        """The bootstrap servers, separated by commas."""
        self.connection = {"bootstrap.servers": self.address, **(client or {})}
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._frozen: set[int] = set()
        # A broker ends with the thread that has started it (PR_SET_PDEATHSIG), so one thread starts all.
        self._starter = ThreadPoolExecutor(1)

    @property
    def alive(self) -> set[int]:
        """The brokers that run and are not frozen."""
        return {number for number in self._running if number not in self._frozen}

    def start(self, *numbers: int) -> None:
        """Start brokers; :meth:`wait_until_complete` waits for them."""
        for number in numbers:
            path = self.folder / f"broker-{number}.log"
            with path.open("ab") as log:
                command = [sys.executable, str(PROGRAM), "run", "--dir", str(self.folder), "--node", str(number)]
                # A process group of its own: Ctrl-C on the terminal asks the run to end, not its brokers.
                starting = self._starter.submit(
                    subprocess.Popen[bytes], command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
                )
                self._running[number] = starting.result()
            attach(f"Apache Kafka, broker {number}", self._running[number], path)

    def end(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        """End a broker, by SIGKILL or in order, and wait for its end; its data stays."""
        process = self._running.pop(number)
        process.send_signal(how)
        process.wait(PATIENCE_S)

    def freeze(self, *numbers: int) -> None:
        """Let brokers do nothing; their connections stay open."""
        for number in numbers:
            freeze(self._running[number].pid)
            self._frozen.add(number)

    def thaw(self) -> None:
        """Let the frozen brokers go on."""
        for number in self._frozen:
            self._running[number].send_signal(signal.SIGCONT)
        self._frozen.clear()

    @functools.cached_property
    def _admin(self) -> AdminClient:
        """One client for all looks. A new one for each would never finish a TLS handshake that takes longer."""
        return AdminClient({**self.connection, **IMPATIENT, "socket.timeout.ms": "5000"})

    def partitions(self) -> dict[str, dict[int, tuple[int, ...]]] | None:
        """Return the brokers that have each partition, None while one is not where it should be or has no leader."""
        try:
            found = self._admin.list_topics(timeout=5)
        except KafkaException:
            return None
        if set(found.brokers) != self.alive:
            return None
        every: dict[str, dict[int, tuple[int, ...]]] = {}
        for name, topic in found.topics.items():
            for number, partition in topic.partitions.items():
                expected = self.alive & set(partition.replicas)
                if partition.leader not in self.alive or not expected <= set(partition.isrs):
                    return None
                every.setdefault(name, {})[number] = tuple(partition.replicas)
        return every

    def wait_until_complete(self, patience_s: float = PATIENCE_S) -> dict[str, dict[int, tuple[int, ...]]]:
        """Wait until every running broker answers and has caught up; return where each partition is."""
        deadline = time.monotonic() + patience_s
        while (found := self.partitions()) is None:
            ended = [number for number, process in self._running.items() if process.poll() is not None]
            assert not ended, f"the brokers {ended} have ended, see {self.folder}"
            assert time.monotonic() < deadline, f"the brokers {sorted(self.alive)} do not agree, see {self.folder}"
            time.sleep(0.2)
        return found

    def move(self, topics: Mapping[str, Sequence[int]], brokers: Sequence[int]) -> None:
        """Begin to move partitions to these brokers, of which each leads some. Raises ReassignmentError."""
        turned = {at: [*brokers[at % len(brokers) :], *brokers[: at % len(brokers)]] for at in range(len(brokers))}
        replicas = {
            topic: {number: turned[number % len(brokers)] for number in numbers} for topic, numbers in topics.items()
        }
        reassign(self._controllers(), replicas)

    def close(self) -> None:
        """End all."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()
        self._starter.shutdown()

    def _controllers(self) -> list[int]:
        """Return the controllers' ports of the brokers that are alive."""
        found = []
        for number in sorted(self.alive):
            with contextlib.suppress(OSError):
                text = (self.folder / str(number) / "server.properties").read_text()
                found += [int(port) for port in re.findall(r"CONTROLLER://127\.0\.0\.1:(\d+)", text)]
        return found
