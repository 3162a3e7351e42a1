"""Whoever may write to a topic may write anything: no record ends a worker, and each is accounted for.

The records are good ones with one thing changed, because bytes that are not a record at all never get past the first
check. ``make hunt`` searches on with fresh seeds.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import MergedBatch
from enrich.render.peer_lookup import Lookup
from enrich.wire.address_interval import AddressInterval, AddressIntervalError, decode_interval
from enrich.wire.batch import VERDICT, decode_batch
from enrich.wire.flow import decode_flow
from enrich.wire.whose import cluster_named
from tests.enrich.flows import make_cluster
from tests.kafka.batches import make_header, make_rows
from tests.streams.worker.test_pipeline import run

_INTEGERS = (-(1 << 65), -(1 << 63), -1, 0, 1, (1 << 31), (1 << 32), (1 << 53) + 1, (1 << 63) - 1, 1 << 63, 1 << 65)
_TEXTS = (
    "",
    "a",
    "A" * 300,
    "a/b",
    "../x",
    "a\nb",
    "a\0b",
    "Not A Name!",
    "ns.",
    "-ns",
    "٣",
    "1e9",
    "4294967296",
    "{}",
)
VALUES = st.one_of(
    st.sampled_from([*_INTEGERS, *_TEXTS, None, True, 1.5, 1e300, [], {}, [1, 2], {"a": 1}]),
    st.integers(-(1 << 70), 1 << 70),
    st.text(max_size=30),
    st.dictionaries(st.sampled_from(_TEXTS) | st.text(max_size=5), st.lists(st.integers(), max_size=3), max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in inside for found in places(one, (*path, key)))]


@st.composite
def altered(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """A JSON object with up to three values, or keys, replaced."""
    made = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(made)[1:] or [()]))
        if not path:
            break
        parent = made
        for key in path[:-1]:
            parent = parent[key]
        if isinstance(parent, dict) and draw(st.booleans()):
            parent[draw(st.sampled_from(_TEXTS))] = parent.pop(path[-1])
        else:
            parent[path[-1]] = draw(VALUES)
    return msgspec.json.encode(made)


HEADER = msgspec.to_builtins(make_header(5, 3)) | {"lost": {"ring_full": [1, 40]}, "kept": [[5, 1], [7, 2]]}


@st.composite
def rows(draw: st.DrawFn) -> Any:
    """Three verdicts with some fields set to anything."""
    made = make_rows(3)
    for name in draw(st.sets(st.sampled_from(VERDICT.names or ()), max_size=4)):
        width = made[name].dtype.itemsize
        made[name] = np.frombuffer(draw(st.binary(min_size=width, max_size=width)), made[name].dtype.base)[0]
    return made


class Decided(Enricher):
    """Renders at once, without waiting for the index."""

    def lookup(self, batch: MergedBatch, *, is_final: bool = False) -> Lookup:
        found = super().lookup(batch, is_final=is_final)
        return dataclasses.replace(found, unsettled=None)


@given(altered(HEADER), rows(), st.binary(max_size=3))
def test_a_batch_that_was_altered_becomes_records_or_one_dead_letter_or_is_another_clusters_and_is_acknowledged(
    header: bytes, verdicts: Any, more: bytes
) -> None:
    value = header + b"\n" + verdicts.tobytes() + more
    producer, acked = run(value, enricher=Decided(make_cluster(), ()))
    assert len(acked) == 1
    dead, flows = producer.of("p.dead"), producer.of("p.flows")
    if cluster_named(header) not in {"", "c1"}:
        assert not dead + flows, "another cluster's workers take it"
    elif dead:
        assert dead == [value]
        assert not flows
    else:
        assert len([decode_flow(one) for one in flows]) == decode_batch(value).header.verdicts


INTERVAL = msgspec.to_builtins(
    AddressInterval(
        cluster="c1",
        node="n1",
        ip="10.0.0.9",
        uid="u9",
        namespace="shop",
        pod="old-0",
        first=1,
        start=2,
        end=3,
        last=4,
        labels={"app": "old"},
    )
)


@given(altered(INTERVAL), st.booleans())
def test_an_address_interval_that_was_altered_is_refused_or_is_one_that_the_index_can_hold(
    value: bytes, own_key: bool
) -> None:
    made = msgspec.json.decode(value)
    parts = [str(made.get(name)) if isinstance(made, dict) else "" for name in ("cluster", "node", "ip", "uid")]
    key = "/".join(parts).encode(errors="replace") if own_key else b"c1/n1/10.0.0.9/u9"
    try:
        interval = decode_interval(value, key)
    except AddressIntervalError:
        return
    assert interval.first <= interval.start
    cluster = make_cluster()
    cluster.addresses.add_interval(interval)
    cluster.addresses.owner_at(interval.ip, interval.start, interval.node)
    cluster.addresses.remove_interval(interval.uid, interval.ip)
