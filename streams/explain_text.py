"""An explanation for people: the verdict first, then each end, then policy by policy what matched and what did not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.text import Text

from enrich.explain import PolicyAccount, RuleAccount, Side
from enrich.explanation import ALLOW, AUDIT, DENY, Answer, Explanation
from enrich.terms import Miss

_WORDS: Final = {ALLOW: "ALLOWED", DENY: "DENIED", AUDIT: "AUDIT"}
_STYLES: Final = {ALLOW: "bold green", DENY: "bold red", AUDIT: "bold yellow"}
_CANNOT: Final = "CANNOT SAY"
_MOST: Final = 8
"""Lines of one kind; the JSON has them all."""

Line = tuple[int, str, str]
"""Depth, style, text."""


def show(found: Explanation, console: Console) -> None:
    """Write all of it."""
    for depth, style, text in lines(found):
        # soft_wrap: a line that is too long is the terminal's to wrap, and whole in a pipe.
        console.print(Text("  " * depth + text, style=style), soft_wrap=True)


def lines(found: Explanation) -> Iterator[Line]:
    """The lines, the answer first."""
    port = f", port {found.port}/{found.protocol}" if found.port else f", {found.protocol}"
    where = f"{found.source.name} -> {found.destination.name}{port if found.answers else ''}"
    yield 0, _STYLES.get(found.verdict, "bold magenta"), f"{_WORDS.get(found.verdict, _CANNOT)}  {where}"
    yield 0, "", found.text
    for note in found.notes:
        yield 0, "cyan", f"note: {note}"
    for index, answer in enumerate(found.answers):
        yield 0, "", ""
        same = index and _alike(answer, found.answers[0])
        yield 0, "dim", f"{answer.source_ip} -> {answer.destination_ip}{': the same' if same else ''}"
        for side in () if same else answer.sides:
            yield from _side(side)


def _alike(one: Answer, other: Answer) -> bool:
    """Whether a person needs to read only one of the two."""
    return [(s.verdict, s.reason, s.policies) for s in one.sides] == [
        (s.verdict, s.reason, s.policies) for s in other.sides
    ]


def _side(side: Side) -> Iterator[Line]:
    yield 0, "", ""
    yield 0, _STYLES[side.verdict], f"{side.direction} of {side.namespace}/{side.pod}: {side.text}"
    for account in side.accounts:
        yield from _policy(account, side)
    # Where nothing allows it, one of these may have been meant to.
    rest = side.unselecting if side.reason in ("default_deny", "no_policy") else ()
    if rest:
        yield 1, "dim", f"not about this, of the policies in {side.namespace}:"
    for other in rest[:_MOST]:
        yield 2, "dim", f"{other.namespace}/{other.name}: {other.text}"
    if len(rest) > _MOST:
        yield 2, "dim", f"and {len(rest) - _MOST} more (-o json lists them)"


def _policy(account: PolicyAccount, side: Side) -> Iterator[Line]:
    name = f"{account.namespace}/{account.name}"
    if not account.rules:
        yield 1, "", f"{name}: has no {side.direction} rule, so it isolates and allows nothing"
        return
    yield 1, "", f"{name}: {'allows it' if any(rule.matched for rule in account.rules) else 'no rule matches'}"
    for rule in account.rules:
        yield from _rule(rule)


def _rule(rule: RuleAccount) -> Iterator[Line]:
    if rule.matched:
        yield 2, "green", f"rule {rule.rule} matches: {rule.text}"
        return
    misses = list(_few(rule.failed))
    if len(misses) == 1:
        yield 2, "yellow", f"rule {rule.rule} does not: {misses[0]}"
        return
    yield 2, "yellow", f"rule {rule.rule} does not:"
    for miss in misses:
        yield 3, "yellow", miss


def _few(misses: tuple[Miss, ...]) -> Iterator[str]:
    peers = [f"{miss.term} {miss.text}" for miss in misses if miss.term != "ports"]
    yield from peers[:_MOST]
    if len(peers) > _MOST:
        yield f"and {len(peers) - _MOST} more peers (-o json lists them)"
    yield from (miss.text for miss in misses if miss.term == "ports")
