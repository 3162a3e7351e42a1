"""Asks the past for `weir explain`, and puts its answer into lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

from enrich.explain.explanation import ALLOW, AUDIT, UNKNOWN
from enrich.explain.query import QuerySyntaxError, parse_destination, parse_source
from enrich.history.moments import moment
from enrich.history.stand_ins import EVERYWHERE
from enrich.history.then import PastExplanation
from enrich.wire.address_interval import AddressInterval
from streams.cli.explain_past import at_time, intervals_of, nanoseconds, of_record
from streams.cli.explain_text import Line, lines, suggestion_lines
from streams.cli.kafka_failure import needs_to_read, say_why
from streams.cli.kafka_options import chosen_cluster, read_settings
from streams.cli.past import Past, load_past
from streams.cli.terminal import printable, progress_removed, show_progress
from streams.kafka.connection import Connection, ReadError
from streams.observing.observe import parse_since, unix_ms
from streams.observing.record_search import ID, Span, find_record
from streams.settings import Settings

_MAX_CHANGES: Final = 10


class NoAnswerError(Exception):
    """There is no answer; :meth:`say` says why on standard error."""

    def __init__(self, text: str, cause: ReadError | None = None, connection: Connection | None = None) -> None:
        super().__init__(text)
        self._cause, self._connection = cause, connection

    def say(self) -> None:
        """Say why, each cause on a line of its own."""
        click.echo(f"weir: cannot say: {self}", err=True)
        if self._cause is not None and self._connection is not None:
            say_why(self._cause, self._connection, needs_to_read())


def ask_past(source: str, destination: str | None, given: Mapping[str, Any]) -> PastExplanation:
    """Return what policies said. Raises SettingsError, QuerySyntaxError, NoAnswerError."""
    if given["now"] is not None:
        raise QuerySyntaxError(
            "--source and --timeout cannot be used with --at or the id of a record, which ask Kafka and not the cluster"
        )
    settings, connection = read_settings(given["kafka"], given["prefix"])
    cluster = chosen_cluster(given["cluster"])
    try:
        if destination is None:
            return _of_record(settings, connection, cluster, source, given)
        ends = parse_source(source), parse_destination(destination)
        at_ns = _time(given["at"], "--at")
        past = _past(settings, connection, cluster, at_ns)
        return at_time(past, _intervals(settings, connection, past), at_ns, ends, suggest=given["suggest"])
    except ReadError as error:
        raise NoAnswerError("the past cannot be read", error, connection) from error


def _of_record(
    settings: Settings, connection: Connection, cluster: str, record_id: str, given: Mapping[str, Any]
) -> PastExplanation:
    if given["at"]:
        raise QuerySyntaxError("--at needs SOURCE and DESTINATION; a record has its own time")
    if not ID.fullmatch(record_id):
        raise QuerySyntaxError(f"{record_id!r} is not the id of a record (RING-NUMBER), or a DESTINATION is missing")
    span, topics = _span(given), settings.topics
    with progress_removed():
        found = find_record(connection, (topics.flows.name, topics.denied.name), record_id, span, show_progress)
    if found is None:
        until = f" to {moment(span.until_ms * 1_000_000)}" if span.is_past else ""
        raise NoAnswerError(
            f"no record since {moment(span.since_ms * 1_000_000)}{until} has the id {record_id}; --since looks further "
            "back"
        )
    flow = found.flow
    past = _past(settings, connection, flow.cluster or cluster, nanoseconds(flow.timestamp))
    return of_record(past, _intervals(settings, connection, past), flow, suggest=given["suggest"])


def _span(given: Mapping[str, Any]) -> Span:
    """Return the time in which the record of an id is to be looked for."""
    since, until = (_time(given[name], f"--{name}") if given[name] else time.time_ns() for name in ("since", "until"))
    if since >= until:
        raise QuerySyntaxError(f"--until {given['until']} is not after --since")
    return Span(since // 1_000_000, until // 1_000_000, bool(given["until"]))


def _time(text: str, option: str) -> int:
    now = datetime.now(UTC)
    try:
        found = parse_since(text, now)
    except ValueError as error:
        raise QuerySyntaxError(f"{option}: {error}") from error
    if found > now:
        raise QuerySyntaxError(f"{option} {text} is in the future")
    return unix_ms(found) * 1_000_000


def _past(settings: Settings, connection: Connection, cluster: str, at_ns: int) -> Past:
    # Pods have their addresses here, so that where those of others are does not matter.
    return load_past(connection, settings.topics, cluster, at_ns, EVERYWHERE)


def _intervals(settings: Settings, connection: Connection, past: Past) -> list[AddressInterval]:
    try:
        return intervals_of(connection, settings.topics.endpoints.name, past.timeline.cluster)
    except ReadError as error:
        past.notes.append(f"which pods had which addresses cannot be read: {error}")
        return []


# --- lines


def past_lines(found: PastExplanation) -> Iterator[Line]:
    """Yield the lines of an answer: the record, what policies said then, what has changed, and what they say today."""
    if found.record is not None:
        one = found.record
        named = ", ".join("/".join(part for part in (policy[1], policy[2]) if part) for policy in one.policies)
        why = f"{one.reason.replace('_', ' ')}{f' ({named})' if named else ''}"
        yield 0, "bold", printable(f"record {one.id}: {one.verdict} at {one.timestamp}, {one.direction}, {why}")
        if found.agrees is False:
            yield 0, "yellow", "the policies of its time say otherwise than was recorded"
    yield 0, "bold", f"as of {found.at}:"
    for depth, style, text in lines(found.then):
        yield depth, style, printable(text)
    yield 0, "", ""
    yield 0, "bold", "since then:" if found.changes else "since then nothing changed that this depends on"
    for change in found.changes[:_MAX_CHANGES]:
        yield 1, "", printable(change.text)
    if len(found.changes) > _MAX_CHANGES:
        yield 1, "dim", f"and {len(found.changes) - _MAX_CHANGES} more (-o json lists them)"
    if found.then.verdict != UNKNOWN or found.today is not None:
        yield 0, "bold", _today(found)
    if found.suggestion is not msgspec.UNSET:
        yield from suggestion_lines(found.suggestion)


def _today(found: PastExplanation) -> str:
    if found.today is None:
        return "what policies say today is not known"
    words = {
        ALLOW: "allowed",
        AUDIT: "audited: it would pass",
        "deny": "denied",
        "mixed": "allowed or denied, as above",
    }
    again = "still " if found.today.verdict == found.then.verdict else ""
    return f"today it would {again}be {words[found.today.verdict]}"
