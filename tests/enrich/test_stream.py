"""The framing of a body comes off, however the network cuts it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrich.sources.stream import BrokenStreamError, Chunks

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
