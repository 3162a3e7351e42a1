"""`weir top` as people run it: on a terminal, on a real topic, through an outage of Kafka."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from ports import free_port

from tests.kafka.broker import start_broker, wait_until_it_answers
from tests.kafka.site import PATIENCE_S, until
from tests.kafka.test_observe import flow_of

pytestmark = pytest.mark.kafka


class Terminal:
    """A process on a terminal of 120 columns and 30 lines."""

    def __init__(self, *arguments: str) -> None:
        own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
        self.process = subprocess.Popen(
            arguments, stdin=other, stdout=other, stderr=other, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread runs yet
        )  # fmt: skip
        os.close(other)
        os.set_blocking(own, False)
        self.own, self.text = own, ""

    def read(self) -> str:
        """Return everything that it has written so far."""
        with contextlib.suppress(BlockingIOError, OSError):
            while chunk := os.read(self.own, 1 << 16):
                self.text += chunk.decode(errors="replace")
        return self.text

    def wait_for(self, text: str, after: int = 0) -> int:
        """Wait until it has written a text, and return the place behind it."""
        place = until(lambda: self.read().find(text, after) + 1 or None, f"{text!r} on the terminal")
        return place + len(text)

    def press_ctrl_c(self) -> None:
        os.write(self.own, b"\x03")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.own)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, int]:
    """A folder and a port for a broker of the test's own."""
    return tmp_path, free_port()


def command(port: int, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "streams.cli.main", "top", "--kafka", f"127.0.0.1:{port}", "--topic-prefix", "top",
        "--every", "0.5", *arguments,
    ]  # fmt: skip


def write(port: int, pod: str, first: int) -> None:
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{port}", "partitioner": "murmur2_random"})
    for number in range(first, first + 20):
        producer.produce("top.flows", flow_of(f"shop/{pod}", number, time.time()), f"shop/{pod}")
    assert producer.flush(PATIENCE_S) == 0


def test_a_screen_lives_through_an_outage_and_ctrl_c_gives_the_terminal_back(place: tuple[Path, int]) -> None:
    folder, port = place
    broker = start_broker(folder, port)
    terminal = None
    try:
        wait_until_it_answers(broker, folder, port)
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"})
        admin.create_topics([NewTopic("top.flows", 3, 1)])["top.flows"].result(PATIENCE_S)
        terminal = Terminal(*command(port, "--by", "src.pod,verdict", "--verdict", "allow"))
        terminal.wait_for("records/s")
        write(port, "web-1", 0)
        seen = terminal.wait_for("web-1")
        broker.send_signal(signal.SIGKILL)
        broker.wait()
        seen = terminal.wait_for(f"Kafka at 127.0.0.1:{port} has not answered since", seen)
        assert terminal.process.poll() is None
        broker = start_broker(folder, port)
        wait_until_it_answers(broker, folder, port)
        write(port, "web-2", 100)
        terminal.wait_for("web-2", seen)
        terminal.press_ctrl_c()
        assert until(lambda: (terminal.process.poll(), terminal.read())[0], "the end") == 130
        tail = terminal.read().rpartition("records/s")[2]
        assert "\x1b[?1049l" in tail, "the screen before is back"
        assert "\x1b[?25h" in tail, "the cursor is back"
        assert "Traceback" not in terminal.text
        piped = subprocess.run(
            command(port, "--count", "2", "-o", "json"), capture_output=True, timeout=PATIENCE_S, check=True
        )
        snapshots = [json.loads(line) for line in piped.stdout.splitlines()]
        assert [one["kafka_away_since"] for one in snapshots] == [None, None]
    finally:
        if terminal is not None:
            terminal.end()
        broker.kill()
        broker.wait()
