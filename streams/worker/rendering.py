"""Renders the verdicts of merged batches, those that are logged apart from those that only alerts count."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from enrich.render.enricher import Records
from enrich.render.merged_batch import MergedBatch
from enrich.render.peer_lookup import Lookup
from streams.worker.pending import EndLookup


class Renderer(EndLookup, Protocol):
    """Renders records; see :class:`enrich.render.enricher.Enricher`."""

    def records(self, batch: MergedBatch, lookup_result: Lookup | None = None) -> Records: ...

    def mark_ambiguous(self, batch: MergedBatch, found: Lookup, until_ns: int) -> None: ...


class Rendered(NamedTuple):
    """Records on their way to Kafka."""

    logged: Records
    unlogged: Records | None = None
    """Denials that are not logged."""


def look_up_finally(renderer: Renderer, batch: MergedBatch, until_ns: int) -> Lookup:
    """Look up the peers of verdicts that do not wait for the index any more.

    ``until_ns``: up to when the index knew who had an address, read before the call, because what it learns during the
    lookup is not in the result. Peers of later verdicts are ambiguous."""
    found = renderer.lookup(batch, is_final=True)
    renderer.mark_ambiguous(batch, found, until_ns)
    return found


def render(renderer: Renderer, batch: MergedBatch, found: Lookup) -> Rendered:
    """Render all verdicts of a batch."""
    cut = batch.cut()
    if not cut.any():
        return Rendered(renderer.records(batch, found))
    parts = (renderer.records(batch.pick(mask), found.pick(mask)) for mask in (~cut, cut))
    return Rendered(*parts)
