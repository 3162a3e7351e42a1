"""What the types of a file of alert rules cannot say: fields that are not there, and those that do not go together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from streams.alerts.fields import FLOW_FIELDS, LOSS_FIELDS, flow_field, label_name
from streams.alerts.model import KINDS, Alerts, Output, Rule
from streams.alerts.template import gaps, mistakes
from streams.config.fields import seconds
from streams.config.yaml_file import Problem, Steps
from streams.matching.check import check_matches
from streams.matching.model import Match, Verdict, as_list

_LONGEST_S: Final = 6 * 3600
_MOST_DISTINCT: Final = 1000
_OWN: Final = frozenset({"alertname", "severity", "policy", "change"})


def check(alerts: Alerts, builtin: Collection[str]) -> list[Problem]:
    """All that is wrong. ``builtin``: the names of the built-in rules."""
    return list(_check(alerts, builtin))


def words(rule: Rule) -> list[str]:
    """What a rule's templates may name."""
    more = {"above": ["threshold", "window"], "first": [], "after_change": ["policy", "change"]}
    return [*rule.fields, "rule", "severity", "count", "example", *more[rule.kind]]


def _check(alerts: Alerts, builtin: Collection[str]) -> Iterator[Problem]:
    for number, name in enumerate(alerts.disable):
        if name not in builtin:
            yield Problem(("disable", number), f"no built-in rule is called {name}; there are {', '.join(builtin)}")
    named = {"rules": [rule.name for rule in alerts.rules], "outputs": [output.name for output in alerts.outputs]}
    for kind, names in named.items():
        for number, name in enumerate(names):
            if name in names[:number]:
                yield Problem((kind, number, "name"), f"another one is called {name}")
    for number, rule in enumerate(alerts.rules):
        yield from _check_rule(("rules", number), rule)
    for number, output in enumerate(alerts.outputs):
        yield from _check_output(("outputs", number), output)


def _check_rule(at: Steps, rule: Rule) -> Iterator[Problem]:
    kinds = [kind for kind in KINDS if getattr(rule, kind) is not None]
    if len(kinds) != 1:
        yield Problem(at, f"must have exactly one of {', '.join(KINDS)}")
        return
    yield from _check_records(at, rule)
    yield from _check_fields((*at, "group_by"), rule.group_by, rule)
    if rule.above is not None:
        yield from _check_fields((*at, "above", "distinct"), rule.above.distinct, rule)
        if rule.above.distinct and rule.above.threshold > _MOST_DISTINCT:
            yield Problem((*at, "above", "threshold"), f"of distinct values is at most {_MOST_DISTINCT}")
        if seconds(rule.above.window) > _LONGEST_S:
            yield Problem((*at, "above", "window"), "is at most 6h")
    if rule.after_change is not None:
        for name in ("within", "quiet"):
            if seconds(getattr(rule.after_change, name)) > _LONGEST_S:
                yield Problem((*at, "after_change", name), "is at most 6h")
        if rule.of == "lost":
            yield Problem((*at, "of"), "what is lost is no policy's doing")
    yield from _check_templates(at, rule)


def _check_records(at: Steps, rule: Rule) -> Iterator[Problem]:
    if rule.of == "lost" and (rule.match != Match() or rule.excluded != []):
        yield Problem((*at, "match" if rule.match != Match() else "except"), "is about connections, not about losses")
    yield from check_matches((*at, "match"), rule.match)
    yield from check_matches((*at, "except"), rule.excluded)
    for number, match in enumerate(as_list(rule.match)):
        verdicts: list[Verdict] = as_list(match.verdict)
        if "allow" in verdicts:
            below = (*at, "match", number) if isinstance(rule.match, list) else (*at, "match")
            yield Problem((*below, "verdict"), "alerts are about denied and audited connections: no allow")


def _check_fields(at: Steps, names: list[str], rule: Rule) -> Iterator[Problem]:
    for number, name in enumerate(names):
        if rule.of == "lost":
            if name not in LOSS_FIELDS:
                yield Problem((*at, number), f"{name!r} is no field of a loss: {', '.join(LOSS_FIELDS)}")
        elif flow_field(name) is None:
            yield Problem(
                (*at, number), f"{name!r} is no field of a record: {', '.join(FLOW_FIELDS)}, or SIDE.labels.KEY"
            )
        if name in names[:number]:
            yield Problem((*at, number), f"{name} is there twice")


def _check_templates(at: Steps, rule: Rule) -> Iterator[Problem]:
    known = words(rule)
    taken = _OWN | {label_name(name) for name in rule.fields}
    texts: tuple[tuple[str, Mapping[str, str]], ...] = (("labels", rule.labels), ("annotations", rule.annotations))
    for kind, given in texts:
        for name, text in given.items():
            for wrong in mistakes(text, known):
                yield Problem((*at, kind, name), wrong)
    for name, text in rule.labels.items():
        if name in taken:
            yield Problem((*at, "labels", name), "is a label that every alert of this rule has already")
        if {"count", "example"} & set(gaps(text)):
            yield Problem((*at, "labels", name), "an alert keeps its labels: count and example are for annotations")


def _check_output(at: Steps, output: Output) -> Iterator[Problem]:
    if (output.alertmanager is None) == (output.webhook is None):
        yield Problem(at, "must be exactly one of alertmanager, webhook")
