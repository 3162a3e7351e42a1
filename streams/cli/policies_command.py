"""`weir policies`: which policies and rules were used, by whom they are selected, and which cannot decide anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import click

from enrich.explain.accounts import display_name
from enrich.history.advice.usage import PolicyUse, RuleUse, Uses, usage
from enrich.history.moments import moment
from enrich.model import NetworkPolicy
from enrich.wire.references import PolicyRef
from streams.cli.advice_window import Window, run_in_window, window_options
from streams.cli.policy_yaml import policy_yaml
from streams.cli.terminal import listed, printable, say, table_lines

_HEADINGS: Final = ("POLICY", "RULE", "SELECTS", "ALLOWED", "DENIED", "AUDITED", "LAST MATCH", "STATE")
_MAX_NAMED: Final = 3
"""Workloads named in one line; the JSON has them all."""
Json = dict[str, Any]


@click.command()
@click.option("-n", "--namespace", help="Only the NetworkPolicies of this namespace.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--manifests", is_flag=True, help="With -o json: each policy as YAML, too.")
@window_options
def policies(namespace: str | None, output: str, *, manifests: bool, **given: Any) -> None:
    """Show for each policy and each of its rules whom it selects, how often it decided, and when last.

    The state of a rule is one of: used; not seen (in the window); cannot say (the rule was changed in the hour in which
    it matched); shadowed (another rule always decides before); adds nothing (another rule allows the same); selects
    nobody. Only verdicts that are logged can be seen, and only while workers have WEIR_PAIRS=1. Times are UTC.

    \b
    Exit 0: the policies were shown. 2: the command is wrong. 3: it cannot say: Kafka cannot be read, or has nothing of
    this window.
    """

    if manifests and output != "json":
        raise click.UsageError("--manifests needs -o json")

    def answer(window: Window) -> int:
        known, versions = window.past.known, window.past.timeline.versions
        since_ns, refused = window.versions_known_since_ns(), window.past.timeline.refused_profiles.values()
        view = window.view(None if namespace is None else [namespace])
        found = usage(view, known.profiles, window.pairs(), versions, since_ns, namespace, refused)
        for rule in (rule for use in found for rule in use.rules):
            # Whether it was seen in the time before is not known.
            rule.since_ns = max(rule.since_ns, window.complete_ns)
        if output == "json":
            click.echo(json.dumps(as_json(found, window, manifests=manifests)))
        else:
            for line in lines(found):
                click.echo(printable(line))
            click.echo(f"evidence: {window.cluster}, {moment(window.since_ns)} to {moment(window.until_ns)}")
            say(window.notes)
        return 0

    run_in_window(given, answer)


def as_json(found: Sequence[PolicyUse], window: Window, *, manifests: bool) -> Json:
    """Return the answer for programs."""
    return {
        "schema": 1,
        "cluster": window.cluster,
        "since": moment(window.since_ns),
        "until": moment(window.until_ns),
        "notes": window.notes,
        "policies": [
            {
                "kind": type(use.policy).__name__,
                "namespace": use.policy.key.namespace,
                "name": use.policy.name,
                "audit": use.audited,
                "selects": None if use.workloads is None else [f"{one.namespace}/{one}" for one in use.workloads],
                **_uses(use.uses),
                "rules": [_rule(rule) for rule in use.rules],
                **({"yaml": policy_yaml(use.policy)} if manifests else {}),
            }
            for use in found
        ],
    }


def _rule(rule: RuleUse) -> Json:
    made: Json = {
        "direction": rule.direction.name.lower(),
        "rule": rule.index,
        **({"name": rule.name} if rule.name else {}),
        "state": rule.state,
        "since": moment(rule.since_ns),
        **_uses(rule.uses),
    }
    if rule.by is not None:
        made["by"] = {"kind": rule.by.kind, "namespace": rule.by.namespace, "name": rule.by.name, "rule": rule.by.rule}
    return made


def _uses(uses: Uses) -> Json:
    return {
        "allowed_connections": uses.allowed,
        "denied_packets": uses.denied,
        "audited_connections": uses.audited,
        "last": moment(uses.last_ns) if uses.is_used else None,
    }


def lines(found: Iterable[PolicyUse]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield from table_lines([_HEADINGS, *(row for use in found for row in _rows(use))])


def _rows(use: PolicyUse) -> Iterator[tuple[str, ...]]:
    policy = use.policy
    kind = "" if isinstance(policy, NetworkPolicy) else f"{type(policy).__name__} "
    state = "selects nobody" if use.workloads == () else "audited" if use.audited else ""
    yield f"{kind}{policy.key}", "", _selects(use), *_cells(use.uses), state
    for rule in use.rules:
        name = f"{rule.direction.name.lower()} {rule.index}{f' {rule.name!r}' if rule.name else ''}"
        yield "", name, "", *_cells(rule.uses), _state(rule)


def _selects(use: PolicyUse) -> str:
    if use.workloads is None:
        return "cannot say"
    own = isinstance(use.policy, NetworkPolicy)
    return listed([str(one) if own else f"{one.namespace} {one}" for one in use.workloads], _MAX_NAMED) or "no pods"


def _cells(uses: Uses) -> tuple[str, str, str, str]:
    numbers = (f"{one:,}" if one else "" for one in (uses.allowed, uses.denied, uses.audited))
    allowed, denied, audited = numbers
    return allowed, denied, audited, moment(uses.last_ns) if uses.is_used else ""


def _state(rule: RuleUse) -> str:
    match rule.state:
        case "shadowed":
            return f"shadowed: {_named(rule.by)} always decides before"
        case "adds nothing":
            return f"adds nothing: {_named(rule.by)} allows the same"
        case "not seen":
            return f"not seen since {moment(rule.since_ns)}"
        case "cannot say":
            return f"cannot say: changed at {moment(rule.since_ns)}, in an hour in which it matched"
        case _:
            return rule.state


def _named(ref: PolicyRef | None) -> str:
    if ref is None:
        return "another rule"
    return f"rule {ref.rule} of {display_name(ref)}"
