"""Explain the outcome of a row, as ``weir explain`` does."""

from __future__ import annotations

from enrich.explain.explanation import explain_connection
from enrich.explain.query import parse_destination, parse_source
from tests.conformance.case import Row
from tests.conformance.state import State


def explain(state: State, row: Row) -> str:
    """Return the verdict, and the explanation of each end that has policies."""
    source, destination = _typed(state, row.source), _typed(state, row.destination)
    bracketed = f"[{destination}]" if ":" in destination else destination
    port = f"{row.port}/{row.protocol.name}"
    found = explain_connection(state.view(""), {}, parse_source(source), parse_destination(f"{bracketed}:{port}"))
    sides = [
        f"{side.direction} of {side.namespace}/{side.pod} {side.text}"
        for answer in found.answers
        for side in answer.sides
    ]
    return "; ".join([found.text, *sides])


def _typed(state: State, end: str) -> str:
    """Return an end as a user would type it: a pod by its name, everything else by its address."""
    return end if end in state.pods else state.ip(end)
