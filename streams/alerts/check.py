"""Checks what the types of a file of alert rules cannot express: unknown fields, and values that exclude each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from streams.alerts.fields import FLOW_FIELDS, LOSS_FIELDS, flow_field, label_name
from streams.alerts.model import KINDS, OUTPUT_KINDS, AlertOutput, AlertRule, Alerts, Threshold
from streams.alerts.template import mistakes, placeholders
from streams.config.fields import seconds
from streams.config.http_target import check_target, url_problem
from streams.config.url_text import without_secrets
from streams.config.yaml_file import Problem, Steps
from streams.matching.check import check_matches
from streams.matching.model import Match, Verdict, as_list

_MAX_WINDOW_S: Final = 6 * 3600
_MAX_DISTINCT: Final = 1000
_BUILT_IN_LABELS: Final = frozenset({"alertname", "severity", "policy", "change", "changed_at", "digest"})
_FIELDS_OF_KIND: Final = {
    "above": ("threshold", "window"),
    "first": (),
    "after_change": ("policy", "change", "changed_by", "pairs", "worst", "explain", "backtest"),
}
"""What the templates of a rule may name because of its condition."""


def check(alerts: Alerts, builtin: Collection[str]) -> list[Problem]:
    """Return every mistake in the file. ``builtin`` has the names of the built-in rules."""
    return list(_check(alerts, builtin))


def template_fields(rule: AlertRule) -> list[str]:
    """Return the fields that the rule's templates may name."""
    return [*rule.fields, "rule", "severity", "count", "example", *_FIELDS_OF_KIND[rule.kind]]


def _check(alerts: Alerts, builtin: Collection[str]) -> Iterator[Problem]:
    for number, name in enumerate(alerts.disable):
        if name not in builtin:
            yield Problem(
                ("disable", number), f"there is no built-in rule {name}; the built-in rules are {', '.join(builtin)}"
            )
    sections = {"rules": [rule.name for rule in alerts.rules], "outputs": [output.name for output in alerts.outputs]}
    for section, names in sections.items():
        for number, name in enumerate(names):
            if name in names[:number]:
                yield Problem(
                    (section, number, "name"), f"{name} is used twice: names must be unique among the {section}"
                )
    for number, rule in enumerate(alerts.rules):
        yield from _check_rule(("rules", number), rule)
    for number, output in enumerate(alerts.outputs):
        yield from _check_output(("outputs", number), output)


def _check_rule(at: Steps, rule: AlertRule) -> Iterator[Problem]:
    kinds = [kind for kind in KINDS if getattr(rule, kind) is not None]
    if len(kinds) != 1:
        yield Problem(at, f"a rule must have exactly one of {', '.join(KINDS)}; this one has {len(kinds)}")
        return
    yield from _check_records(at, rule)
    yield from _check_fields((*at, "group_by"), rule.group_by, rule)
    yield from _check_label_names((*at, "group_by"), rule)
    if rule.above is not None:
        yield from _check_distinct((*at, "above"), rule.above, rule)
        if seconds(rule.above.window) > _MAX_WINDOW_S:
            yield Problem((*at, "above", "window"), "a window must be 6h or less")
    if rule.after_change is not None:
        for name in ("within", "quiet"):
            if seconds(getattr(rule.after_change, name)) > _MAX_WINDOW_S:
                yield Problem((*at, "after_change", name), f"{name} must be 6h or less")
        if rule.of == "lost":
            yield Problem(
                (*at, "of"),
                "after_change cannot be used with `of: lost`: losses are not caused by policy changes",
            )
    yield from _check_templates(at, rule)


def _check_distinct(at: Steps, above: Threshold, rule: AlertRule) -> Iterator[Problem]:
    """Check a threshold of distinct values, and that the rule can fire at all."""
    if not above.distinct:
        return
    if rule.of == "lost":
        yield Problem(
            (*at, "distinct"),
            "distinct cannot be used with `of: lost`: losses are counted by amount only, so the rule would never fire",
        )
        return
    yield from _check_fields((*at, "distinct"), above.distinct, rule)
    if above.threshold > _MAX_DISTINCT:
        yield Problem((*at, "threshold"), f"a threshold of distinct values must be {_MAX_DISTINCT} or less")
    if above.threshold > 1 and set(above.distinct) <= set(rule.fields):
        yield Problem(
            (*at, "distinct"),
            "must have a field that is not in group_by: each group has one value of those, so the rule would never "
            "fire (the cluster is always in group_by)",
        )
    if above.count != "attempts":
        yield Problem((*at, "count"), "cannot be used together with distinct, which counts values and not records")


def _check_records(at: Steps, rule: AlertRule) -> Iterator[Problem]:
    if rule.of == "lost" and (rule.match != Match() or rule.excluded != []):
        field = "match" if rule.match != Match() else "except"
        yield Problem((*at, field), f"{field} cannot be used with `of: lost`: it selects connections, not losses")
    if rule.match == []:
        yield Problem((*at, "match"), "is an empty list, which no record fits, so the rule would never fire")
    yield from check_matches((*at, "match"), rule.match)
    yield from check_matches((*at, "except"), rule.excluded)
    for number, match in enumerate(as_list(rule.match)):
        verdicts: list[Verdict] = as_list(match.verdict)
        if "allow" in verdicts:
            below = (*at, "match", number) if isinstance(rule.match, list) else (*at, "match")
            yield Problem(
                (*below, "verdict"), "allow cannot be matched: alerts see denied and audited connections only"
            )


def _check_fields(at: Steps, names: list[str], rule: AlertRule) -> Iterator[Problem]:
    for number, name in enumerate(names):
        if rule.of == "lost":
            if name not in LOSS_FIELDS:
                yield Problem((*at, number), f"a loss has no field {name!r}; its fields are {', '.join(LOSS_FIELDS)}")
        elif flow_field(name) is None:
            known = ", ".join(FLOW_FIELDS)
            yield Problem((*at, number), f"a record has no field {name!r}; its fields are {known}, and SIDE.labels.KEY")
        if name in names[:number]:
            yield Problem((*at, number), f"{name} is listed twice")


def _check_label_names(at: Steps, rule: AlertRule) -> Iterator[Problem]:
    """Check that each field becomes a label of its own. If two became one, alerts of different groups would have the
    same labels, and be one alert to Alertmanager: the end of one would end the other."""
    taken = {"cluster": "the cluster, which every rule groups by"}
    if rule.after_change is not None:
        taken["policy"] = "the policy that changed"
    for number, name in enumerate(rule.group_by):
        label = label_name(name)
        if name != "cluster" and label in taken and name not in rule.group_by[:number]:
            yield Problem(
                (*at, number),
                f"{name} and {taken[label]} would be the same label of an alert, {label}: Alertmanager allows only "
                "letters, digits and _ in names of labels. Group by one of the two",
            )
        taken.setdefault(label, name)


def _check_templates(at: Steps, rule: AlertRule) -> Iterator[Problem]:
    known = template_fields(rule)
    taken = _BUILT_IN_LABELS | {label_name(name) for name in rule.fields}
    sections: tuple[tuple[str, Mapping[str, str]], ...] = (("labels", rule.labels), ("annotations", rule.annotations))
    for section, texts in sections:
        for name, text in texts.items():
            for mistake in mistakes(text, known):
                yield Problem((*at, section, name), mistake)
    for name, text in rule.labels.items():
        if name in taken:
            yield Problem((*at, "labels", name), f"every alert of this rule already has a label {name}; choose another")
        if {"count", "example", "pairs", "worst", "explain"} & set(placeholders(text)):
            # Alertmanager identifies an alert by its labels: one that changes makes a second alert.
            yield Problem(
                (*at, "labels", name),
                "labels must not change while an alert fires: use count and example in annotations",
            )


def _check_output(at: Steps, output: AlertOutput) -> Iterator[Problem]:
    if sum(getattr(output, kind) is not None for kind in OUTPUT_KINDS) != 1:
        yield Problem(at, f"an output must have exactly one of {', '.join(OUTPUT_KINDS)}")
        return
    yield from check_target((*at, output.kind), getattr(output, output.kind), "url")
    url = output.alertmanager.url if output.alertmanager is not None else None
    if url is not None and url_problem(url) is None:
        problem = base_url_problem(url)
        if problem:
            base = without_secrets(url.partition("/api/v")[0])
            yield Problem((*at, "alertmanager", "url"), f"{problem}: {base}")


def base_url_problem(url: str) -> str | None:
    """Return why a URL is not the base of an Alertmanager, to which the path of its API can be added; None if it is."""
    if "/api/v" in url:
        return "must be the base URL, without /api/v..."
    return "must be the base URL, without ? and #" if "?" in url or "#" in url else None
