"""The framing of a body comes off, however the network cuts it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from enrich.sources.stream import BrokenStreamError, Chunks, blocks

BODIES = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"\r", b"0\r\n\r\n"]), max_size=6)


@given(BODIES, st.data())
def test_what_comes_out_is_what_the_chunks_hold(chunks: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    framing = Chunks()
    out = [framing.strip(wire[start:end]) for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert b"".join(out) == b"".join(chunks)
    assert framing.ended


def test_a_chunk_is_handed_on_before_it_is_whole() -> None:
    framing = Chunks()
    assert framing.strip(b"a\r\n0123") == b"0123"
    assert framing.strip(b"456789\r") == b"456789"
    assert not framing.ended


@pytest.mark.parametrize("wire", [b"{}\r\n", b"\r\nx\r\n", b";\r\n", b"1" * 20_000])
def test_what_is_no_framing_breaks_the_stream(wire: bytes) -> None:
    with pytest.raises(BrokenStreamError):
        Chunks().strip(wire)


# --- the real urllib3

EVENTS = [b'{"number":%d}\n' % number for number in range(5000)]
MEND = (
    "urllib3 has changed: enrich/sources/stream.py takes the connection's buffer out of its internals "
    "(response._fp.fp). Find where it is now and mend blocks(), or hold urllib3 in requirements.lock; until then a "
    "first list is far slower."
)


@pytest.fixture
def response() -> Iterator[urllib3.BaseHTTPResponse]:
    """An answer as the API server makes one: a chunk for each event."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        there, _ = listening.accept()
        with there:
            there.recv(1 << 16)
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS)
            there.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")

    server = threading.Thread(target=serve)
    server.start()
    with urllib3.PoolManager() as pool:
        made = pool.request("GET", f"http://127.0.0.1:{listening.getsockname()[1]}/", preload_content=False)
        yield made
        made.close()
    server.join()
    listening.close()


def test_a_read_takes_many_events_at_once(response: urllib3.BaseHTTPResponse) -> None:
    found = list(blocks(response))
    assert b"".join(found) == b"".join(EVENTS)
    assert len(found) < len(EVENTS) / 10, MEND


class Closed:
    """A response of a urllib3 that keeps its buffer to itself."""

    chunked = True
    headers: Mapping[str, str] = {}

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.stream = response.stream


def test_without_the_buffer_it_is_slow_and_complete(response: urllib3.BaseHTTPResponse) -> None:
    found = list(blocks(Closed(response)))
    assert b"".join(found) == b"".join(EVENTS)
    assert len(found) >= len(EVENTS), "no slower: then there is a public way, and the internals can go"
