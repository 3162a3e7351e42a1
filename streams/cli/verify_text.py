"""Puts what `weir verify` found into JSON and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from enrich.history.moments import moment
from enrich.history.record_question import Outcome
from enrich.wire.flow import Flow
from streams.cli.verifying import Finding, Sums

_STYLES: Final = {
    Outcome.AGREES: "green",
    Outcome.LATE: "",
    Outcome.DISAGREES: "bold red",
    Outcome.CANNOT_SAY: "yellow",
    Outcome.NOT_JUDGED: "dim",
}


def as_json(sums: Sums, window: tuple[int, int], notes: Sequence[str]) -> dict[str, Any]:
    """Return the result for programs."""
    return {
        "schema": 1,
        "since": moment(window[0]),
        "until": moment(window[1]),
        "read": sums.read,
        "outside": sums.outside,
        "others": sums.others,
        "unreadable": sums.unreadable,
        "combinations": sums.combinations,
        "outcomes": {_key(one): sums.outcomes[one] for one in Outcome},
        "cannot_say": dict(sums.reasons.most_common()),
        "not_judged": dict(sums.not_judged.most_common()),
        "notes": list(notes),
        "findings": [_finding_json(one) for one in findings(sums)],
        "findings_left_out": sums.unlisted,
    }


def findings(sums: Sums) -> list[Finding]:
    """Return what disagrees, the combinations with most records first."""
    return sorted(sums.findings.values(), key=lambda one: (-one.records, one.first))


def _key(outcome: Outcome) -> str:
    return {Outcome.NOT_JUDGED: "not_judged"}.get(outcome, outcome.value.replace(" ", "_"))


def _finding_json(one: Finding) -> dict[str, Any]:
    flow = one.flow
    return {
        "records": one.records,
        "first": f"{one.first.decode()}Z",
        "last": f"{one.last.decode()}Z",
        "examples": one.examples,
        "text": one.text,
        "connection": msgspec.to_builtins(flow.connection) | {"src_port": None},
        "src": msgspec.to_builtins(flow.src),
        "dest": msgspec.to_builtins(flow.dest),
        "recorded": {
            "verdict": flow.disposition,
            "reason": flow.reason,
            "policies": msgspec.to_builtins((*flow.policies, *flow.isolated_by)),
        },
        "node_name": flow.node_name,
    }


def lines(sums: Sums, most: int) -> Iterator[tuple[str, str]]:
    """Yield styles and lines: the sums, then ``most`` combinations that disagree, and why it cannot be said."""
    for outcome in Outcome:
        count = sums.outcomes[outcome]
        if count or outcome is not Outcome.NOT_JUDGED:
            yield _STYLES[outcome] if count else "dim", f"{outcome.value:12} {count:>14,} records"
    found = findings(sums)
    if found:
        yield "", ""
        yield "bold", "DISAGREES"
    for one in found[:most]:
        yield from _finding_lines(one)
    if len(found) > most:
        yield "dim", f"and {len(found) - most:,} more combinations (-o json lists them)"
    for title, counts in (("CANNOT SAY", sums.reasons), ("NO POLICY'S", sums.not_judged)):
        if counts:
            yield "", ""
            yield "bold", title
        for text, count in counts.most_common(most):
            yield "", f"{count:>14,}  {text.replace('_', ' ') if counts is sums.not_judged else text}"


def _finding_lines(one: Finding) -> Iterator[tuple[str, str]]:
    flow = one.flow
    port = f"/{flow.connection.dest_port}" if flow.connection.dest_port is not None else ""
    yield (
        "bold red",
        f"{flow.text('src')} -> {flow.text('dest')}  {flow.protocol}{port}  {flow.direction}  {one.records:,} records, "
        f"last {one.last.decode()[:19]}Z",
    )
    yield "dim", f"    recorded: {flow.disposition}, {_why(flow)}"
    yield "", f"    {one.text}"
    yield "dim", f"    e.g. weir explain {one.examples[0]}"


def _why(flow: Flow) -> str:
    named = ", ".join(one.path for one in (*flow.policies, *flow.isolated_by))
    return f"{flow.reason.replace('_', ' ')}{f' ({named})' if named else ''}"
