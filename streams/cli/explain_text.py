"""Prints an explanation for people: the verdict, then each end, then for each policy what matched and what did not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from rich.console import Console
from rich.text import Text

from enrich.explain.accounts import PolicyAccount, RuleAccount, TierAccount, display_name
from enrich.explain.explanation import ALLOW, AUDIT, DENY, MIXED, AddressPairAnswer, Explanation
from enrich.explain.mismatch import Mismatch
from enrich.explain.one_end import EndDecision
from enrich.history.advice.suggestion import Suggestion
from enrich.model import NetworkPolicy
from streams.cli.policy_yaml import dumped
from streams.cli.terminal import printable

_WORDS: Final = {ALLOW: "ALLOWED", DENY: "DENIED", AUDIT: "AUDIT", MIXED: "DEPENDS"}
_STYLES: Final = {ALLOW: "bold green", DENY: "bold red", AUDIT: "bold yellow"}
_CANNOT_SAY: Final = "CANNOT SAY"
_MAX_LISTED: Final = 8
"""Policies or peers listed in one place; the JSON output has them all."""

Line = tuple[int, str, str]
"""Indentation depth, style, text."""


def show_lines(found: Iterable[Line], console: Console) -> None:
    """Write lines to a console."""
    for depth, style, text in found:
        # soft_wrap: the terminal wraps long lines, and a pipe gets them whole.
        console.print(Text("  " * depth + text, style=style), soft_wrap=True)


def lines(found: Explanation) -> Iterator[Line]:
    """Yield the lines of an explanation, the answer first."""
    port = f", port {found.port}/{found.protocol}" if found.port else f", {found.protocol}"
    where = f"{found.source.name} -> {found.destination.name}{port if found.answers else ''}"
    yield 0, _STYLES.get(found.verdict, "bold magenta"), f"{_WORDS.get(found.verdict, _CANNOT_SAY)}  {where}"
    yield 0, "", found.text
    for note in found.notes:
        yield 0, "cyan", f"note: {note}"
    for index, answer in enumerate(found.answers):
        yield 0, "", ""
        same = index and _alike(answer, found.answers[0])
        outcome = "the same" if same else _WORDS[answer.verdict]
        yield 0, "dim" if same else _STYLES[answer.verdict], f"{answer.source_ip} -> {answer.destination_ip}: {outcome}"
        for side in () if same else answer.sides:
            yield from _side(side, answer)


def suggestion_lines(found: Suggestion) -> Iterator[Line]:
    """Yield the lines of a suggestion. The YAML stands at the left, so that people can copy it."""
    yield 0, "", ""
    yield 0, "bold", printable(f"what would allow it today: {found.text}")
    for note in found.notes:
        yield 0, "cyan", printable(f"note: {note}")
    for line in suggestion_yaml(found).splitlines():
        yield 0, "", line


def suggestion_yaml(found: Suggestion) -> str:
    """Return the policies of a suggestion as one YAML text; empty if there are none."""
    return "---\n".join(dumped(one) for one in found.policies)


def _alike(one: AddressPairAnswer, other: AddressPairAnswer) -> bool:
    """Return whether the answers differ in addresses only, so that one of them needs no details."""
    return [(s.verdict, s.reason, s.policies) for s in one.sides] == [
        (s.verdict, s.reason, s.policies) for s in other.sides
    ]


def _side(side: EndDecision, answer: AddressPairAnswer) -> Iterator[Line]:
    yield 0, "", ""
    yield 0, _STYLES[side.verdict], f"{side.direction} of {side.namespace}/{side.pod}: {side.text}"
    tiers = [tier for tier in side.tiers if tier.policies]
    alone = [tier.tier for tier in tiers] == ["NetworkPolicy"]
    if side.verdict == AUDIT:
        yield 1, "bold", "If the audited policies were enforced:"
    for tier in tiers:
        if not alone:
            yield 1, "bold", f"{tier.tier} tier{'' if tier.asked else ' is not evaluated'}: {_outcome(tier)}"
        # For a tier that is not evaluated, the outcome is enough.
        for account in tier.policies if tier.asked else ():
            yield from _policy(account, side, 1 if alone else 2)
    # The author may have intended one of these to allow the connection, or to isolate the pod.
    relevant = side.verdict == DENY or (side.reason == "no_policy" and answer.verdict == ALLOW)
    others = side.unselecting if relevant else ()
    if others:
        yield 1, "dim", "policies that do not apply:"
    for other in others[:_MAX_LISTED]:
        yield 2, "dim", f"{display_name(other)}: {other.text}"
    if len(others) > _MAX_LISTED:
        yield 2, "dim", f"and {len(others) - _MAX_LISTED} more (-o json lists them)"


def _outcome(tier: TierAccount) -> str:
    would = "" if tier.asked else "would "
    match tier.outcome:
        case "accept":
            return f"{would}allow it" if would else "allows it"
        case "deny":
            return f"{would}deny it" if would else "denies it"
        case "pass":
            return f"{would}pass it on" if would else "passes it on to the next tier"
        case "node":
            return "isolates the pod, but a pod always reaches its own node"
        case _:
            return "no rule matches" if tier.policies[0].kind != NetworkPolicy.__name__ else "nothing is enforced"


def _policy(account: PolicyAccount, side: EndDecision, depth: int) -> Iterator[Line]:
    about = [] if account.priority is None else [f"priority {account.priority}"]
    if account.audit:
        about.append("audited, takes no part in this verdict" if account.left_out else "audited")
    name = f"{display_name(account)} ({', '.join(about)})" if about else display_name(account)
    if not account.rules:
        yield depth, "", f"{name}: has no {side.direction} rule, so it isolates and allows nothing"
        return
    yield depth, "", f"{name}: {'matches' if any(rule.matched for rule in account.rules) else 'no rule matches'}"
    for rule in account.rules:
        yield from _rule(rule, depth + 1, left_out=account.left_out)


def _rule(rule: RuleAccount, depth: int, *, left_out: bool) -> Iterator[Line]:
    quoted = f" {rule.name!r}" if rule.name else ""
    name = f"rule {rule.rule}{quoted}{f', {rule.action},' if rule.action else ''}"
    if rule.matched and rule.shadowed_by is not None:
        by = rule.shadowed_by
        yield depth, "dim", f"{name} matches, but rule {by.rule} of {by.name} has decided before: {rule.text}"
    elif rule.matched:
        yield depth, "dim" if left_out else "red" if rule.action == "Deny" else "green", f"{name} matches: {rule.text}"
    else:
        reasons = list(_limited(rule.failed))
        yield (
            depth,
            "yellow",
            f"{name} does not match: {reasons[0]}" if len(reasons) == 1 else f"{name} does not match:",
        )
        for reason in reasons if len(reasons) > 1 else ():
            yield depth + 1, "yellow", reason


def _limited(mismatches: tuple[Mismatch, ...]) -> Iterator[str]:
    peers = [f"{one.term} {one.text}" for one in mismatches if one.term != "ports"]
    yield from peers[:_MAX_LISTED]
    if len(peers) > _MAX_LISTED:
        yield f"and {len(peers) - _MAX_LISTED} more peers (-o json lists them)"
    yield from (one.text for one in mismatches if one.term == "ports")
