"""The few requests of Kafka's protocol that a diagnosis needs (https://kafka.apache.org/protocol)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

_METADATA, _FIND_COORDINATOR, _DESCRIBE_GROUPS = (3, 8), (10, 1), (15, 3)
_SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = (17, 1), (18, 0), (36, 0)
"""Numbers of requests and the version that is sent: the newest that every broker since Kafka 2.3 answers."""
_MAX_ANSWER: Final = 16 << 20
_MAX_ITEMS: Final = 1 << 20
NO_ERROR: Final = 0


class ProtocolError(OSError):
    """The other end has closed the connection, or has sent what is not an answer of Kafka's."""


class _Fields:
    """Reads the fields of an answer, one after the other. Raises ProtocolError where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> bytes:
        if length < 0 or self._at + length > len(self._data):
            raise ProtocolError("the answer is cut")
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self, form: str) -> int:
        return int(struct.unpack(f">{form}", self.take(struct.calcsize(f">{form}")))[0])

    def text(self) -> str:
        """Read a string; an absent one is empty."""
        length = self.number("h")
        return self.take(length).decode(errors="replace") if length >= 0 else ""

    def blob(self) -> bytes:
        length = self.number("i")
        return self.take(length) if length >= 0 else b""

    def array(self, item: Callable[[], T]) -> list[T]:
        length = self.number("i")
        if length > _MAX_ITEMS:
            raise ProtocolError("the answer is no answer of Kafka's")
        return [item() for _ in range(max(0, length))]


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker as it advertises itself."""

    number: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Described:
    """A topic or group: Kafka's error code, and the bits of the operations that the user may perform on it."""

    error: int
    operations: int


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _texts(values: list[str]) -> bytes:
    return struct.pack(">i", len(values)) + b"".join(_text(value) for value in values)


class Channel:
    """One connection to a broker, encrypted or not. Every method raises OSError; ProtocolError is one."""

    def __init__(self, connected: socket.socket, client_id: str) -> None:
        self._socket, self._client_id, self._number = connected, client_id, 0

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def api_versions(self) -> None:
        """Ask which requests the broker knows, which every broker answers before a user is authenticated."""
        self._ask(_API_VERSIONS, b"")

    def sasl_handshake(self, mechanism: str) -> tuple[int, list[str]]:
        """Choose a mechanism; return Kafka's error code and the mechanisms of this listener."""
        answer = self._ask(_SASL_HANDSHAKE, _text(mechanism))
        return answer.number("h"), answer.array(answer.text)

    def sasl_authenticate(self, message: bytes) -> tuple[int, str, bytes]:
        """Send a message of the mechanism; return Kafka's error code, its text, and the broker's message."""
        answer = self._ask(_SASL_AUTHENTICATE, struct.pack(">i", len(message)) + message)
        return answer.number("h"), answer.text(), answer.blob()

    def metadata(self, topics: list[str]) -> tuple[list[Broker], dict[str, Described]]:
        """Return the brokers, and these topics by name."""
        answer = self._ask(_METADATA, _texts(topics) + b"\0\0\1")
        answer.number("i")

        def broker() -> Broker:
            found = Broker(answer.number("i"), answer.text(), answer.number("i"))
            answer.text()
            return found

        brokers = answer.array(broker)
        answer.text(), answer.number("i")

        def topic() -> tuple[str, Described]:
            error, name, _ = answer.number("h"), answer.text(), answer.take(1)
            answer.array(partition)
            return name, Described(error, answer.number("I"))

        def partition() -> None:
            answer.take(2 + 4 + 4 + 4)
            for _ in range(3):
                answer.array(lambda: answer.number("i"))

        return brokers, dict(answer.array(topic))

    def find_coordinator(self, key: str, *, transaction: bool = False) -> tuple[int, Broker]:
        """Return Kafka's error code, and the coordinator of a group or of a transactional id."""
        answer = self._ask(_FIND_COORDINATOR, _text(key) + (b"\1" if transaction else b"\0"))
        answer.number("i")
        error, _ = answer.number("h"), answer.text()
        return error, Broker(answer.number("i"), answer.text(), answer.number("i"))

    def describe_group(self, group: str) -> Described:
        """Describe a group; only its coordinator can."""
        answer = self._ask(_DESCRIBE_GROUPS, _texts([group]) + b"\1")
        answer.number("i")

        def member() -> None:
            for _ in range(3):
                answer.text()
            answer.blob(), answer.blob()

        def described() -> Described:
            error = answer.number("h")
            for _ in range(4):
                answer.text()
            answer.array(member)
            return Described(error, answer.number("I"))

        found = answer.array(described)
        return found[0] if found else Described(NO_ERROR, 0)

    def _ask(self, request: tuple[int, int], body: bytes) -> _Fields:
        self._number += 1
        message = struct.pack(">hhi", *request, self._number) + _text(self._client_id) + body
        self._socket.sendall(struct.pack(">i", len(message)) + message)
        length = int(struct.unpack(">i", self._receive(4))[0])
        if not 4 <= length <= _MAX_ANSWER:
            raise ProtocolError("the answer is no answer of Kafka's")
        answer = _Fields(self._receive(length))
        if answer.number("i") != self._number:
            raise ProtocolError("the answer is to another request")
        return answer

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            block = self._socket.recv(length - len(received))
            if not block:
                raise ProtocolError("the connection was closed")
            received += block
        return bytes(received)
