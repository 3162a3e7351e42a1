"""Moves partitions to other brokers by Kafka's request AlterPartitionReassignments, which librdkafka does not have."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence

_REQUEST, _VERSION, _TIMEOUT_S = 45, 0, 120
_NOT_CONTROLLER, _NONE_IN_PROGRESS = 41, 85
Replicas = Mapping[str, Mapping[int, Sequence[int]]]
"""The brokers that are to have each partition, by topic and partition."""


class ReassignmentError(OSError):
    """The controllers cannot be reached, or none of them is active, or they refuse."""


def reassign(controllers: Iterable[int], replicas: Replicas) -> None:
    """Ask the active one of the controllers at these ports of 127.0.0.1. The move itself goes on afterwards."""
    problem = "there is no controller"
    for port in controllers:
        try:
            errors = _ask(port, replicas)
        except OSError as error:
            problem = f"the controller at {port}: {error}"
            continue
        if _NOT_CONTROLLER not in errors:
            refused = errors - {0, _NONE_IN_PROGRESS}
            if refused:
                raise ReassignmentError(f"the controller at {port} answers with the errors {sorted(refused)}")
            return
        problem = f"the controller at {port} is not active"
    raise ReassignmentError(problem)


def _ask(port: int, replicas: Replicas) -> set[int]:
    """Return the error codes in the answer."""
    topics = []
    for topic, moves in replicas.items():
        partitions = [struct.pack(">i", number) + _numbers(brokers) + b"\0" for number, brokers in moves.items()]
        topics.append(_text(topic) + _array(partitions) + b"\0")
    body = struct.pack(">i", _TIMEOUT_S * 1000) + _array(topics) + b"\0"
    message = struct.pack(">hhih", _REQUEST, _VERSION, 1, -1) + b"\0" + body
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as connected:
        connected.settimeout(_TIMEOUT_S)
        connected.sendall(struct.pack(">i", len(message)) + message)
        (length,) = struct.unpack(">i", _receive(connected, 4))
        answer = _Answer(_receive(connected, length))
    answer.skip(4 + 1 + 4)  # number of the request, tags, throttle time
    errors = {answer.number(">h")}
    answer.text()
    for _ in range(answer.count()):
        answer.text()
        for _ in range(answer.count()):
            answer.skip(4)
            errors.add(answer.number(">h"))
            answer.text()
            answer.skip(1)
        answer.skip(1)
    return errors


def _receive(connected: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        block = connected.recv(length - len(received))
        if not block:
            raise ReassignmentError("the connection was closed")
        received += block
    return received


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _varint(len(encoded) + 1) + encoded


def _array(items: Sequence[bytes]) -> bytes:
    return _varint(len(items) + 1) + b"".join(items)


def _numbers(numbers: Sequence[int]) -> bytes:
    return _array([struct.pack(">i", number) for number in numbers])


class _Answer:
    """Reads the fields of an answer, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def skip(self, length: int) -> None:
        self._at += length

    def number(self, form: str) -> int:
        found = struct.unpack_from(form, self._data, self._at)[0]
        self.skip(struct.calcsize(form))
        return int(found)

    def count(self) -> int:
        """Read the length of an array or text; it is one more on the wire, and 0 if there is none."""
        found = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return max(0, found - 1)
            shift += 7

    def text(self) -> None:
        self.skip(self.count())
