"""Reads the change that a backtest is about, runs it over pairs, and puts the result into JSON and lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from enrich.explain.accounts import display_name
from enrich.history.backtest import Backtest, Finding, Outcome, Question
from enrich.history.change import Change
from enrich.history.moments import moment
from enrich.model import POLICY_API_VERSIONS, NetworkPolicy, Policy
from enrich.parse.spelling import nearest
from enrich.render.template import PROTOCOLS
from enrich.sources.manifest_documents import ManifestError
from enrich.sources.repository import name_of, read_repository, skipped_text
from enrich.wire.pair import PairEnd
from enrich.wire.references import PolicyRef
from streams.cli.terminal import say

KINDS: Final = tuple(kind.__name__ for kind in POLICY_API_VERSIONS)
_ICMP: Final = (1, 58)
_MAX_FAILED: Final = 3
"""Terms that fail listed behind one line; JSON has them all."""


class ChangeError(ValueError):
    """What is to be changed is not understood; the message says why."""


def read_change(files: Sequence[Path], deleted: Iterable[str], *, replace_all: bool) -> Change:
    """Return the change. Raises :class:`enrich.sources.manifest_documents.ManifestError`, :class:`ChangeError`."""
    policies = read_policies(files)
    names = frozenset(map(_named, deleted))
    both = names & {(type(one).__name__, one.key.namespace, one.name) for one in policies}
    if both:
        raise ChangeError(f"{'/'.join(part for part in min(both) if part)} is both in a file and in --delete")
    return Change(policies, names, replace_all)


def check_within(change: Change, namespace: str) -> None:
    """Check that a change is of NetworkPolicies of one namespace only, which select no pods of another. Raises
    :class:`ChangeError`."""
    if change.replace_all:
        raise ChangeError("--replace is about the policies of all namespaces, so that it cannot be used with -n")
    named = [(type(one).__name__, one.key.namespace, one.name) for one in change.policies]
    for kind, its, name in sorted({*named, *change.deleted}):
        if kind != NetworkPolicy.__name__ or its != namespace:
            whose = f"is of namespace {its}" if its else "is of the whole cluster"
            raise ChangeError(f"{kind} {name} {whose}: with -n {namespace}, only its NetworkPolicies may change")


def read_policies(files: Sequence[Path]) -> tuple[Policy, ...]:
    """Return the policies of files and folders (``-``: of standard input), and say what was not read. Raises
    :class:`enrich.sources.manifest_documents.ManifestError`, also if they have no policies."""
    found = read_repository(files, KINDS)
    policies = tuple(one for one in found.objects.values() if isinstance(one, Policy))
    if found.problems:
        raise ManifestError(found.problems)
    if files and not policies:
        # It must not count as a change that deletes everything.
        there = f"only {skipped_text(found.skipped)}" if found.skipped else "and nothing else"
        named = ", ".join(map(name_of, files))
        raise ManifestError([f"{named}: there is no policy, {there}"])
    say([f"{place}: {text}: {todo}" for place, text, todo in found.unrendered])
    if found.skipped:
        say([f"not read, because only policies are: {skipped_text(found.skipped)}"])
    return policies


def _named(text: str) -> tuple[str, str, str]:
    """Return kind, namespace and name of ``KIND/NAMESPACE/NAME``, or ``KIND/NAME``."""
    kind, *rest = text.split("/")
    if kind not in KINDS:
        near = nearest(kind, KINDS)
        raise ChangeError(
            f"--delete {text}: {kind!r} is not a kind of policy"
            + (f"; did you mean {near}?" if near else f"; write {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        )
    namespaced = kind == NetworkPolicy.__name__
    if len(rest) != 1 + namespaced or not all(rest):
        raise ChangeError(f"--delete {text}: write {kind}/{'NAMESPACE/NAME' if namespaced else 'NAME'}")
    return kind, rest[0] if namespaced else "", rest[-1]


# --- JSON


def as_json(made: Backtest, findings: Sequence[Finding], since_ns: int, until_ns: int, notes: Sequence[str]) -> Any:
    """Return the result for programs."""
    known = sum(one.findings for outcome, one in made.sums.items() if outcome is not Outcome.UNCHANGED)
    return {
        "schema": 1,
        "since": moment(since_ns),
        "until": moment(until_ns),
        "sums": {
            outcome.value.replace(" ", "_"): {"pairs": found.findings, "connections": found.connections}
            for outcome, found in made.sums.items()
        },
        "newly_audited_connections": made.audited,
        "notes": list(notes),
        "findings": [_finding_json(finding) for finding in findings],
        "left_out": known - len(findings),
    }


def _finding_json(one: Finding) -> dict[str, Any]:
    question = one.question
    found: dict[str, Any] = {
        "outcome": one.outcome.value,
        "subject": msgspec.to_builtins(question.subject),
        "peer": msgspec.to_builtins(question.peer),
        "direction": question.direction,
        "protocol": _protocol(question.protocol),
        **({} if question.protocol in _ICMP else {"port": question.port}),
        "recorded": {"verdict": one.verdict, "reason": one.reason, "policies": msgspec.to_builtins(one.policies)},
        "connections": one.connections,
        "packets": one.packets,
        "first": moment(one.first_ns),
        "last": moment(one.last_ns),
        "examples": list(one.examples),
        "text": one.text,
    }
    if one.would:
        would = {"verdict": one.would, "reason": one.would_reason, "policies": msgspec.to_builtins(one.would_policies)}
        found |= {"would": would, "failed": list(one.failed)}
    return found


# --- lines


def lines(made: Backtest, findings: Sequence[Finding], most: int) -> Iterator[tuple[str, str]]:
    """Yield styles and lines: the sums, then the findings of each outcome, ``most`` of each."""
    for outcome, found in made.sums.items():
        yield _STYLES[outcome], f"{outcome.value:14} {found.findings:>9,} pairs {found.connections:>14,} connections"
    if made.audited:
        yield "yellow", f"{made.audited:,} of the unchanged connections would newly be logged as audited"
    for outcome in Outcome:
        chosen = [one for one in findings if one.outcome is outcome]
        if chosen:
            yield "", ""
            yield "bold", outcome.value.upper()
        for finding in chosen[:most]:
            yield from _finding_lines(finding)
        if len(chosen) > most:
            yield "dim", f"and {len(chosen) - most:,} more (-o json lists them)"


_STYLES: Final = {
    Outcome.NEWLY_DENIED: "bold red",
    Outcome.NEWLY_ALLOWED: "green",
    Outcome.UNCHANGED: "",
    Outcome.CANNOT_SAY: "yellow",
}


def _finding_lines(one: Finding) -> Iterator[tuple[str, str]]:
    yield _STYLES[one.outcome], (f"{_ends(one.question)}  {one.connections:,} connections, last {moment(one.last_ns)}")
    yield "dim", f"    recorded: {one.verdict}, {_why(one.reason, one.policies)}"
    if one.text:
        yield "", f"    {'cannot say: ' if one.outcome is Outcome.CANNOT_SAY else ''}{one.text}"
    for text in one.failed[:_MAX_FAILED]:
        yield "", f"      {text}"
    if len(one.failed) > _MAX_FAILED:
        yield "dim", f"      and {len(one.failed) - _MAX_FAILED} more (-o json lists them)"


def _ends(question: Question) -> str:
    subject, peer = end_text(question.subject), end_text(question.peer)
    ends = f"{subject} -> {peer}" if question.direction == "egress" else f"{peer} -> {subject}"
    port = f"/{question.port}" if question.port and question.protocol not in _ICMP else ""
    return f"{ends}  {_protocol(question.protocol)}{port}  {question.direction}"


def end_text(end: PairEnd) -> str:
    """Return one end of a pair as tables have it."""
    if end.unknown:
        return "(not known)"
    if end.node:
        return f"node {end.node}"
    if end.namespace:
        return f"{end.namespace}/{end.workload.rpartition('/')[2] or '(a pod of its own)'}"
    return f"{end.block} (coarse)" if end.coarse and end.block else end.block.removesuffix("/32").removesuffix("/128")


def _protocol(number: int) -> str:
    return PROTOCOLS.get(number, str(number))


def _why(reason: str, policies: Sequence[PolicyRef]) -> str:
    named = ", ".join(map(display_name, policies))
    return f"{reason.replace('_', ' ')}{f' ({named})' if named else ''}"
