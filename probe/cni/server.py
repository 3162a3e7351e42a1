"""The Unix socket on which the CNI plugin asks, bounded so that no caller can keep others or the probe from working.

Each connection has a thread, of which there are at most ``MAX_CONNECTIONS``: more are closed at once, and the plugin
tries again for as long as it may wait. A request must be complete after ``REQUEST_S`` seconds. Only root can connect.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from enrich.runtime.private import make_private_folder
from enrich.runtime.state_file import set_aside
from probe.cni.messages import MAX_REQUEST

log = structlog.get_logger("kubeweir.cni")

MAX_CONNECTIONS: Final = 256
REQUEST_S: Final = 2.0
_ANSWER_S: Final = 5.0
_BACKLOG: Final = 512
_POLL_S: Final = 0.2
_RETRY_S: Final = 1.0
_MAX_DESCRIPTORS: Final = 4
"""How many descriptors are received and closed; the plugin sends one."""

Handle = Callable[[bytes, int | None], bytes]
"""Takes a request and a descriptor of the pod's network namespace, if the plugin sent one, and returns the answer."""


class Server:
    """Listens on a path, from :meth:`start` to :meth:`stop`."""

    def __init__(self, path: Path, handle: Handle) -> None:
        """``handle`` is called on many threads and must not raise."""
        self._path, self._handle = path, handle
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._stop = threading.Event()
        self._listening: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """Why the plugin cannot ask, in words; None if it can."""

    def start(self) -> None:
        """Listen, in place of a probe that has ended. Where that fails, on a full disk for example, it is retried."""
        self._listening = self._listen()
        self._thread = threading.Thread(target=self._run, name="cni", daemon=True)
        self._thread.start()

    def _listen(self) -> socket.socket | None:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            make_private_folder(self._path.parent)
            if self._path.is_dir() and not self._path.is_symlink():
                set_aside(self._path, "CNI socket", "it is a folder", "the socket is made anew")
            self._path.unlink(missing_ok=True)
            listening.bind(str(self._path))
            self._path.chmod(0o600)
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            if self.problem is None:
                log.error("the socket of the CNI plugin cannot be made: pods of this node do not start until it is",
                          socket=str(self._path), error=str(error), retry_s=_RETRY_S)  # fmt: skip
            # One whose path is too long has no strerror.
            why = error.strerror or error
            self.problem = f"the socket {self._path} cannot be made ({why}): pods of this node do not start"
            return None
        self.problem = None
        return listening

    def stop(self) -> None:
        """Stop to listen. Requests that wait are answered or end with the process; the plugin asks the next probe."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._listening is not None:
            self._path.unlink(missing_ok=True)
            self._listening.close()

    def _run(self) -> None:
        while self._listening is None:
            if self._stop.wait(_RETRY_S):
                return
            self._listening = self._listen()
        listening = self._listening
        while not self._stop.is_set():
            if not select.select([listening], [], [], _POLL_S)[0]:
                continue
            try:
                connection, _ = listening.accept()
            except OSError as error:
                # No descriptor is left, for example: those of other connections are given back in a moment.
                log.warning("a connection of the CNI plugin cannot be accepted", error=str(error))
                self._stop.wait(_POLL_S)
                continue
            if not self._free.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="cni-request", daemon=True).start()
            except RuntimeError:
                connection.close()
                self._free.release()

    def _serve(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            with connection:
                if _is_root(connection):
                    request = _receive(connection, descriptors)
                    if request is not None:
                        answer = self._handle(request, descriptors[0] if descriptors else None)
                        connection.settimeout(_ANSWER_S)
                        connection.sendall(answer)
        except OSError as error:
            log.debug("a connection of the CNI plugin broke", error=str(error))
        except Exception:
            # A fault of ours at one request. The plugin asks again, and other pods' requests are answered.
            log.exception("a request of the CNI plugin failed")
        finally:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self._free.release()


def _is_root(connection: socket.socket) -> bool:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", raw)[1]
    return user in (0, os.geteuid())


def _receive(connection: socket.socket, descriptors: list[int]) -> bytes | None:
    """Read a request to its end, and add the descriptors that come with it; None if it is empty, too large or slow."""
    deadline = time.monotonic() + REQUEST_S
    parts: list[bytes] = []
    size = 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        connection.settimeout(left)
        try:
            part, received, _, _ = socket.recv_fds(connection, 1 << 16, _MAX_DESCRIPTORS)
        except TimeoutError:
            return None
        descriptors.extend(received)
        if not part:
            return b"".join(parts) or None
        parts.append(part)
        size += len(part)
        if size > MAX_REQUEST or len(descriptors) > _MAX_DESCRIPTORS:
            return None
