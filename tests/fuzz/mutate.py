"""Malformed records: true ones with something changed, because most random bytes never get past the first check."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import msgspec
import orjson

ODD_JSON: Final = (
    b"-1", b"0", b"-0.0", b"1e400", b"-1e400", b"1.5", b"NaN", b"Infinity", b"4294967296", b"9223372036854775807",
    b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809", b"1" + b"0" * 400, b"null", b"true",
    b"{}", b"[]", b"[[]]", b'[1,"a",null]', b'{"a":1}', b'""', b'"a"', b'"-1"', b'"1e9"', b'"4294967295"', b'"\\u0000"',
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"a\\nb"', b'"a/b"', b'"../x"', b'"Not A Name!"', b'"\xd9\xa3"', b'"\xff\xfe"',
    b'"10.0.0.256"', b'"::ffff:1.2.3.4"', b'"fe80::1%eth0"', b'"9999-12-31T23:59:59.999999999Z"',
    b'"0000-00-00T00:00:00Z"', b'"2026-02-30T00:00:00.000000000Z"',
)  # fmt: skip
"""JSON values of another type, and some that are no JSON."""
LARGE_JSON: Final = (
    b"[" * 300 + b"]" * 300, b'{"a":' * 1500 + b"1" + b"}" * 1500, b"[" * 5000, b'"' + b"A" * 70_000 + b'"',
    b"[" + b"1," * 20_000 + b"1]", b'{"' + b"A" * 70_000 + b'":1}',
)  # fmt: skip
"""Large and deep ones, which are rare because they take long."""
_LARGE: Final = 0.02
_KEYS: Final = ("", "v", "__class__", "a\0b", "A" * 3000, "-1", "4294967296", "\u0663")
_MARKS: Final = (b"\n", b"\0", b"\xff", b'"', b"{", b"\\", b"\xed\xa0\x80")
_MAX_CHANGES: Final = 4
_MAX_PLACES: Final = 500


def malformed(rng: random.Random, good: bytes) -> bytes:
    """Return a record that was changed in one to four ways. What follows the first line may be no JSON."""
    head, newline, body = good.partition(b"\n")
    for _ in range(rng.randint(1, _MAX_CHANGES)):
        if rng.random() < 0.7:
            head = _structured(rng, head)
        else:
            change = rng.choice(_BYTES)
            if body and rng.random() < 0.5:
                body = change(rng, body)
            else:
                head = change(rng, head)
    return b"" if rng.random() < 0.001 else head + newline + body


def _structured(rng: random.Random, text: bytes) -> bytes:
    """Replace, rename, remove or repeat something in a JSON value; a text that is none is changed by bytes."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return rng.choice(_BYTES)(rng, text)
    places = _places(value)
    if not places:
        return _odd(rng)
    parent, key = rng.choice(places)
    action = rng.random()
    if action < 0.7:
        parent[key] = msgspec.Raw(_odd(rng))
    elif isinstance(parent, dict):
        moved = parent.pop(key)
        if action < 0.85:
            parent[rng.choice(_KEYS)] = moved
    elif action < 0.85:
        parent.extend([parent[key]] * rng.choice((1, 1, 2, 2, 70)))
    else:
        parent[key] = list(parent)
    return msgspec.json.encode(value)


def _odd(rng: random.Random) -> bytes:
    return rng.choice(LARGE_JSON if rng.random() < _LARGE else ODD_JSON)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return values inside a JSON value, each as its parent and key: all, if there are not very many."""
    found: list[tuple[Any, Any]] = []
    outer = deque([value] if isinstance(value, dict | list) else [])
    while outer and len(found) < _MAX_PLACES:
        one = outer.popleft()
        keys = list(islice(one if isinstance(one, dict) else range(len(one)), _MAX_PLACES))
        found += [(one, key) for key in keys]
        outer += [one[key] for key in keys if isinstance(one[key], dict | list)]
    return found


def _flip(rng: random.Random, text: bytes) -> bytes:
    changed = bytearray(text or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, text: bytes) -> bytes:
    return text[: rng.randrange(len(text) + 1)]


def _drop(rng: random.Random, text: bytes) -> bytes:
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.choice((1, 2, 8, 88)) :]


def _insert(rng: random.Random, text: bytes) -> bytes:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice((*_MARKS, _odd(rng))) + text[place:]


def _repeat(rng: random.Random, text: bytes) -> bytes:
    start = rng.randrange(len(text) + 1)
    part = text[start : start + rng.choice((1, 8, 88, 200))]
    return text[:start] + part * rng.choice((2, 3, 50)) + text[start:]


def _extreme(rng: random.Random, text: bytes) -> bytes:
    """Set some bytes in a row to all ones, all zeros, or the sign alone."""
    start, width = rng.randrange(len(text) + 1), rng.choice((1, 2, 4, 8))
    return (
        text[:start] + rng.choice((b"\xff" * width, bytes(width), bytes(width - 1) + b"\x80")) + text[start + width :]
    )


_BYTES: Final[tuple[Callable[[random.Random, bytes], bytes], ...]] = (_flip, _cut, _drop, _insert, _repeat, _extreme)


def smaller(found: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Return a smaller record that fails too: parts are left out for as long as it does."""
    size = max(1, len(found) // 2)
    while size:
        start = 0
        while start < len(found):
            shorter = found[:start] + found[start + size :]
            if fails(shorter):
                found = shorter
            else:
                start += size
        size //= 2
    return found
