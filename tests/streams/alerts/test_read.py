"""Reading the file of alert rules: each mistake is reported with its line and field, and the published schema agrees."""

# ruff: noqa: E501 - a table of messages

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml

from streams.alerts import model
from streams.alerts.read import builtin, in_force, read
from streams.config.yaml_file import FileError

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "streams" / "schemas" / "alerts.schema.json"
EXAMPLE = ROOT / "deploy" / "examples" / "alerts.yaml"


def rule(text: str) -> str:
    """A file whose one rule has these lines, the first of them line 4."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return f"version: 1\nrules:\n  - name: one\n{lines}"


UP = "above: {threshold: 3}\n"
WRONG = [
    ("", "1: the file is empty"),
    ("version: 1\nrule: []\n", "2: rule: there is no such field"),
    ("version: 1\ndisable: [deny-bursts]\n", "2: disable[0]: there is no built-in rule deny-bursts; the built-in rules are deny-burst, "),
    (rule("severity: warning"), "3: rules[0]: a rule must have exactly one of above, first, after_change; this one has 0"),
    (rule(f"{UP}first: {{}}"), "3: rules[0]: a rule must have exactly one of above, first, after_change; this one has 2"),
    (rule("above: {threshold: 0}"), "4: rules[0].above.threshold: must be at least 1 and at most 1000000000; is 0"),
    (rule("above: {threshold: 1, window: 1 m}"), "4: rules[0].above.window: must be a whole number and a unit, such as 90s, 5m, 2h or 3d; is '1 m'"),
    (rule("above: {threshold: 1, window: 7h}"), "4: rules[0].above.window: a window must be 6h or less"),
    (rule("above: {threshold: 2000, distinct: [port]}"), "4: rules[0].above.threshold: a threshold of distinct values must be 1000 or less"),
    (rule("above:\n  threshold: 2\n  distinct: [ports]"), "6: rules[0].above.distinct[0]: a record has no field 'ports'; its fields are cluster, "),
    (rule(f"{UP}group_by: [node, src.pods]"), "5: rules[0].group_by[1]: a record has no field 'src.pods'"),
    (rule(f"{UP}group_by: [node, node]"), "5: rules[0].group_by[1]: node is listed twice"),
    (rule(f"{UP}group_by: [src.labels.a-b, src.labels.a.b]"), "5: rules[0].group_by[1]: src.labels.a.b and src.labels.a-b would be the same label of an alert, src_labels_a_b: "),
    (rule("after_change: {}\ngroup_by: [policy]"), "5: rules[0].group_by[0]: policy and the policy that changed would be the same label of an alert, policy: "),
    (rule(f"{UP}labels: {{digest: a}}"), "5: rules[0].labels.digest: every alert of this rule already has a label digest"),
    (rule(f"{UP}of: lost\ngroup_by: [port]"), "6: rules[0].group_by[0]: a loss has no field 'port'; its fields are cluster, node"),
    (rule(f"{UP}of: lost\nmatch: {{verdict: deny}}"), "6: rules[0].match: match cannot be used with `of: lost`: it selects connections, not losses"),
    (rule("of: lost\nafter_change: {}"), "4: rules[0].of: after_change cannot be used with `of: lost`: losses are not caused by policy changes"),
    (rule(f"{UP}match: {{verdict: [deny, allow]}}"), "5: rules[0].match.verdict: allow cannot be matched: alerts see denied and audited connections only"),
    (rule("above: {threshold: 1, distinct: [node]}\nof: lost"), "4: rules[0].above.distinct: distinct cannot be used with `of: lost`"),
    (rule("above: {threshold: 2, distinct: [node, cluster]}\ngroup_by: [node]"), "4: rules[0].above.distinct: must have a field that is not in group_by"),
    (rule("above: {threshold: 2, distinct: [port], count: records}"), "4: rules[0].above.count: cannot be used together with distinct"),
    (rule(f"{UP}match: []"), "5: rules[0].match: is an empty list, which no record fits, so the rule would never fire"),
    (rule("above: {treshold: 3}"), "4: rules[0].above.treshold: there is no such field; did you mean threshold?"),
    ("version: 1\noutputs:\n  - name: a\n    alertmanager: {url: 'http://am:9093/api/v2/alerts'}\n", "4: outputs[0].alertmanager.url: must be the base URL, without /api/v...: http://am:9093"),
    (rule(f"{UP}match: {{port: 9-8}}"), "5: rules[0].match.port: 9-8: the first port is larger than the last"),
    (rule(f"{UP}labels:\n  team: '{{{{ node }}}}'"), "6: rules[0].labels.team: 'node' cannot be used here; the fields are cluster, rule, severity, count, example, threshold, window"),
    (rule(f"{UP}annotations:\n  a: '{{{{ count }}}} {{{{ count'"), "6: rules[0].annotations.a: the braces do not form a {{ field }}"),
    (rule(f"{UP}annotations:\n  a: '{{{{ count.__class__ }}}}'"), "6: rules[0].annotations.a: 'count.__class__' cannot be used here"),
    (rule(f"{UP}annotations:\n  a: '{{{{ 1 + 1 }}}}'"), "6: rules[0].annotations.a: the braces do not form a {{ field }}"),
    (rule(f"{UP}labels:\n  n: '{{{{ count }}}} of {{{{ rule }}}}'"), "6: rules[0].labels.n: labels must not change while an alert fires: use count and example in annotations"),
    (rule(f"{UP}labels:\n  severity: high"), "6: rules[0].labels.severity: every alert of this rule already has a label severity; choose another"),
    (rule(f"{UP}labels:\n  a-b: high"), "6: rules[0].labels.a-b: must be a name of letters, digits and '_'"),
    (rule(UP) + "  - name: one\n    above: {threshold: 1}\n", "5: rules[1].name: one is used twice: names must be unique among the rules"),
    ("version: 1\noutputs:\n  - name: a\n", "3: outputs[0]: an output must have exactly one of alertmanager, webhook"),
    ("version: 1\noutputs:\n  - name: a\n    webhook: {url: 'http://[x'}\n", "4: outputs[0].webhook.url: must be a URL that begins with http:// or https:// and names a host"),
    ("version: 1\noutputs:\n  - name: a\n    alertmanager: {url: 'http://am:9093?x'}\n", "4: outputs[0].alertmanager.url: must be the base URL, without ? and #"),
    ("version: 1\noutputs:\n  - name: a\n    webhook: {url: 'ftp://x'}\n", "4: outputs[0].webhook.url: must be a URL that begins with http:// or https://; is 'ftp://x'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_mistake_is_reported_with_its_line_and_field(text: str, message: str) -> None:
    with pytest.raises(FileError) as caught:
        read(text.encode(), "alerts.yaml")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"alerts.yaml:{message}")


def test_the_published_schema_is_generated_from_the_types() -> None:
    assert orjson.loads(SCHEMA.read_bytes()) == model.schema()
    jsonschema.Draft202012Validator.check_schema(model.schema())


def test_the_example_is_valid() -> None:
    assert read(EXAMPLE.read_bytes(), "alerts.yaml").rules
    jsonschema.Draft202012Validator(model.schema()).validate(yaml.safe_load(EXAMPLE.read_bytes()))


SHAPES: list[tuple[dict[str, Any], bool]] = [
    ({"version": 1, "rules": [{"name": "a", "above": {"threshold": 1, "for": "0s"}}]}, True),
    ({"version": 1, "rules": [{"name": "a", "above": {"threshold": 1, "window": "0s"}}]}, False),
    ({"version": 1, "rules": [{"name": "a", "first": {}, "severity": "high"}]}, False),
    ({"version": 1, "outputs": [{"name": "a", "alertmanager": {"url": "http://a:9093"}}]}, True),
]


@pytest.mark.parametrize(("file", "good"), SHAPES)
def test_the_published_schema_and_the_reader_agree(file: dict[str, Any], good: bool) -> None:
    assert jsonschema.Draft202012Validator(model.schema()).is_valid(file) is good
    if good:
        read(orjson.dumps(file), "f")
    else:
        with pytest.raises(FileError):
            read(orjson.dumps(file), "f")


def test_the_file_can_replace_and_disable_built_in_rules() -> None:
    file = {"version": 1, "disable": ["host-scan"], "rules": [{"name": "port-scan", "above": {"threshold": 7}}]}
    found = {one.name: one for one in in_force(read(orjson.dumps(file), "f")).rules}
    assert set(found) == {one.name for one in builtin()} - {"host-scan"}
    above = found["port-scan"].above
    assert above is not None
    assert above.threshold == 7
