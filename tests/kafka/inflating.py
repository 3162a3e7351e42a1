"""Compressed batches that inflate to more than anybody has memory for, sent by Kafka's bare protocol.

A producer's library has the whole record in memory; here a batch of gigabytes is made piece by piece.
"""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import cramjam
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c, encode_varint
from aiokafka.structs import TopicPartition

_PIECE: Final = 1 << 20
_CODECS: Final = {"none": 0, "gzip": 1, "lz4": 3, "zstd": 4}


def batch(codec: str, sizes: list[int], key: bytes | None = b"c1/n1/r1") -> bytes:
    """Make a batch of records whose values are zeros, of these sizes; size -1 is a record without a value."""
    body = _compressed(codec, _records(sizes, key))
    now = int(time.time() * 1000)
    count = len(sizes)
    rest = struct.pack(">hiqqqhii", _CODECS[codec], count - 1, now, now, -1, -1, -1, count) + body
    whole = struct.pack(">ibI", -1, 2, calc_crc32c(rest)) + rest
    return struct.pack(">qi", 0, len(whole)) + whole


def produce(broker: str, topic: str, partition: int, value: bytes) -> int:
    """Send a batch, and return the broker's error code: 0 if it has it."""
    return asyncio.run(_produce(broker, topic, partition, value))


async def _produce(broker: str, topic: str, partition: int, value: bytes) -> int:
    client = AIOKafkaClient(bootstrap_servers=broker, request_timeout_ms=120_000)
    await client.bootstrap()
    try:
        client.add_topic(topic)
        await client.force_metadata_update()
        node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        request = ProduceRequest(None, -1, 120_000, [(topic, [(partition, value)])])
        answer = await client.send(node, request)
        return int(answer.topics[0][1][0][1])
    finally:
        await client.close()


def _records(sizes: list[int], key: bytes | None) -> Iterator[bytes]:
    zeros = bytes(_PIECE)
    for number, size in enumerate(sizes):
        head = b"\0" + _number(0) + _number(number)
        head += _number(-1) if key is None else _number(len(key)) + key
        head += _number(size)
        yield _number(len(head) + max(size, 0) + 1) + head
        for start in range(0, max(size, 0), _PIECE):
            yield zeros[: size - start]
        yield _number(0)


def _number(value: int) -> bytes:
    found = bytearray()
    encode_varint(value, found.append)
    return bytes(found)


def _compressed(codec: str, pieces: Iterator[bytes]) -> bytes:
    if codec == "none":
        return b"".join(pieces)
    if codec == "gzip":
        gzip = zlib.compressobj(6, zlib.DEFLATED, 31)
        return b"".join([*(gzip.compress(piece) for piece in pieces), gzip.flush()])
    make: dict[str, Callable[[], Any]] = {
        "lz4": lambda: cramjam.lz4.Compressor(level=1, content_checksum=False, block_linked=False),
        "zstd": cramjam.zstd.Compressor,
    }
    compressor = make[codec]()
    for piece in pieces:
        compressor.compress(piece)
    return bytes(compressor.finish())
