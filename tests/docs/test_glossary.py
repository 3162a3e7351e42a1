"""The glossary and the code agree: no identifier of the product is a word that is not used for a term of the glossary.

:data:`NOT_IDENTIFIERS` has such words by the term of ``docs/glossary.md`` that is said instead:

- ``word``: no identifier has it as a part. Parts are what stands between underscores and at capitals: ``held_rows`` and
  ``HeldRows`` have the parts ``held`` and ``rows``.
- ``=word``: no identifier is exactly that, leading underscores aside.
- ``room:word``, ``room:=word``: the same, in that folder only.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections import defaultdict
from functools import cache

import pytest

from tests.docs.pages import ROOT, page

ROWS = list(page("docs/glossary.md").rows("term"))
ROOMS = ("probe", "enrich", "streams", "bpf")
NOT_IDENTIFIERS: dict[str, tuple[str, ...]] = {
    "verdict": (
        "probe:row",
        "probe:rows",
        "enrich:row",
        "enrich:rows",
        "streams/worker:row",
        "streams/worker:rows",
        "bpf:rows",
    ),
    "peer selector": ("probe:term", "enrich/policy:term", "enrich/parse:term", "terms"),
    "ruleset": ("probe/policy:=Side", "probe/policy:=sides"),
    "flattened policy": ("probe:=tiers",),
    "port entry": ("=Answer",),
    "lpm": ("=Cover", "=cover", "=Blocks"),
    "capacity": ("pressure",),
    "address interval": (
        "probe:hold",
        "probe:holds",
        "enrich:hold",
        "enrich:holds",
        "streams/worker:hold",
        "streams/worker:holds",
    ),
    "appeared, disappeared": ("came", "went"),
    "found, observed at": ("looked", "had", "begun", "=Looker"),
    "ledger": ("probe:=Numbers",),
    "export": ("probe:=Delivery", "probe:=delivery"),
    "watch": ("dry",),
    "record": ("=Outgoing",),
    "merged batch": ("enrich:joined", "streams:joined"),
    "interning, intern table": ("enrich:numbered",),
    "pending verdict": ("streams:held", "probe:held"),
    "in-flight tracker": ("streams:=Delivery", "streams:=delivery", "streams:=Ledger", "streams:=ledger"),
    "dead letter": ("bury",),
    "retry, backoff": ("=AgainError",),
    "evict": ("squeezed",),
    "deduplicate": ("=Repeats",),
    "route, output, sink": ("=far_end",),
    "topic router": ("=placing", "=Placing"),
    "classifier": ("streams:=compiled", "=Compiled"),
    "hot reload": ("live", "=LiveFile"),
    "threshold, first seen, after change": ("=AboveTracker",),
    "count loop, engine loop": ("=KeepLoop",),
    "backtest": ("rehearsal", "=Rehearsal"),
    "policy change": ("news",),
    "expected, requested, started": (
        "wanted",
        "probe:asked",
        "enrich/sources:asked",
        "enrich/index:asked",
        "enrich/render:asked",
        "streams/worker:asked",
        "streams/alerts:asked",
        "streams/kafka:asked",
    ),
    "observed, published": ("told",),
    "limit": ("=MOST",),
}


@cache
def names() -> dict[str, set[str]]:
    """Identifier to the files that have it."""
    found: dict[str, set[str]] = defaultdict(set)
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
                if token.type == tokenize.NAME:
                    found[token.string].add(str(file.relative_to(ROOT)))
    return found


@cache
def parts(name: str) -> frozenset[str]:
    """What stands between underscores and at capitals, in lower case."""
    return frozenset(part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name))


def test_parts_of_a_name() -> None:
    assert parts("held_rows") == parts("HeldRows") == {"held", "rows"}
    assert parts("_MOST_ROWS") == {"most", "rows"}


@pytest.mark.parametrize("mark", [mark for marks in NOT_IDENTIFIERS.values() for mark in marks])
def test_no_identifier_is_a_word_that_is_not_used(mark: str) -> None:
    room, _, word = mark.rpartition(":")
    exact = word.startswith("=")
    word = word.lstrip("=")
    hits = {
        name: sorted(file for file in files if file.startswith(room))
        for name, files in names().items()
        if (name.strip("_") == word if exact else word in parts(name))
    }
    assert {name: files for name, files in hits.items() if files} == {}


def test_every_term_has_a_meaning() -> None:
    assert len(ROWS) > 40
    for term, meaning, _ in ROWS:
        assert term
        assert meaning
    terms = [row[0] for row in ROWS]
    assert len(set(terms)) == len(terms)
    assert NOT_IDENTIFIERS.keys() <= set(terms)
