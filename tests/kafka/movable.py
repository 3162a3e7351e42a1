"""A Kafka that can be stopped, frozen, and moved to another address, behind a bootstrap address that stays.

Kafka 4.3.1 may lose a transaction if its only broker is killed in the middle of a commit: when the broker starts again,
it notes the transaction as complete although it could not send all markers, neither to the address that it had nor to
its own while that was not open yet. From then on nobody can read the offsets of the transaction's group, for ever, and
only an administrator can end that. So this broker is stopped and killed between two transactions.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from ports import free_port

from tests.kafka.broker import start_broker, wait_until_it_answers
from tests.kafka.transaction_log import open_transactions
from tests.waiting import freeze, until


class MovableBroker:
    """Apache Kafka in one process. ``address`` is the bootstrap address, and leads to where the broker is now."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="bootstrap", daemon=True).start()

    def start(self) -> None:
        """Start the broker, and wait until it answers."""
        self._process = process = start_broker(self._folder, self._port)
        wait_until_it_answers(process, self._folder, self._port)

    def stop(self) -> None:
        """Kill the broker; its data stays."""
        if self._process is not None:
            self._freeze()
        self._kill()

    def move(self) -> None:
        """Start the broker again at an address of its own, at which it never was before."""
        self.stop()
        self._port = free_port()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the broker: its connections stay open, and nothing answers."""
        self._freeze()
        try:
            yield
        finally:
            assert self._process is not None
            self._process.send_signal(signal.SIGCONT)

    def _freeze(self) -> None:
        """Stop the broker's process when no transaction is under way."""
        process = self._process
        assert process is not None

        def is_between() -> bool:
            freeze(process.pid)
            # Only of a process that is stopped: the next transaction may begin at any time.
            if not open_transactions(self._folder / "broker" / "data"):
                return True
            process.send_signal(signal.SIGCONT)
            return False

        until(is_between)

    def close(self) -> None:
        """Stop everything."""
        self._listener.close()
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), 5) as broker,
        ):
            broker.settimeout(None)
            back = threading.Thread(target=_pump, args=(broker, client), daemon=True)
            back.start()
            _pump(client, broker)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
