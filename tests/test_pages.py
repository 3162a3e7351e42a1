"""Tests of what is read of a health port whose process ends meanwhile."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.pages import page_of


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 503 no\r\nContent-Length: 9\r\n\r\nenrich:",
        b"something else\r\n\r\n",
    ],
)
def test_a_part_of_an_answer_is_no_answer(sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(sent)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(OSError, match="not complete"):
            page_of(server.getsockname()[1])
        thread.join()
