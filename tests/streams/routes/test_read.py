"""The routes file: every mistake is reported with its line and field, and the published schema agrees."""

# ruff: noqa: E501 - a table of messages

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import jsonschema
import orjson
import pytest
import yaml

from enrich.wire.batch import Reason
from streams.matching.model import Reason as Reasons
from streams.routes import model
from streams.routes.read import RoutesError, read

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "streams" / "schemas" / "routes.schema.json"
EXAMPLE = ROOT / "deploy" / "examples" / "routes.yaml"


def route(text: str) -> str:
    """A file whose one route has these lines, the first of them line 4."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return f"version: 1\nroutes:\n  - name: one\n{lines}"


OUT = "outputs: [{stdout: {}}]\n"
WRONG = [
    ("", "1: the file is empty"),
    ("version: 2\n", "1: version: must be 1; is 2"),
    ("routes: []\n", "1: version: is required"),
    ("version: 1\nroute: []\n", "2: route: there is no such field"),
    ("version: 1\nroutes: {\n", "3: did not find expected node content"),
    ("version: 1\nroutes:\n\t- name: a\n", "3: found character that cannot start any token"),
    (route("outputs: []"), "4: routes[0].outputs: must have at least 1 entries, has 0"),
    (route("match: {verdict: deny}"), "3: routes[0].outputs: is required"),
    (route(f"{OUT}match:\n  verdict:\n    - deny\n    - denied"), "8: routes[0].match.verdict[1]: must be one of allow, audit, deny; is 'denied', did you mean deny?"),
    (route(f"{OUT}match:\n  verdict: deny\n  verdict: allow"), "7: routes[0].match.verdict: is given twice"),
    (route(f"{OUT}matches: {{}}"), "5: routes[0].matches: there is no such field"),
    (route(f"{OUT}match:\n  port: 70000"), "6: routes[0].match.port: must be at least 0 and at most 65535; is 70000"),
    (route(f"{OUT}match:\n  port: 9-70000"), "6: routes[0].match.port: 9-70000: a port is at most 65535"),
    (route(f"{OUT}match:\n  port: [80, 9-8]"), "6: routes[0].match.port[1]: 9-8: the first port is larger than the last"),
    (route(f"{OUT}match:\n  protocol: [tcp, tpc]"), "6: routes[0].match.protocol[1]: 'tpc' is not a protocol: use tcp, udp, sctp, icmp, icmpv6, or a number up to 255"),
    (route(f"{OUT}except:\n  - peer:\n      cidr: 10.0.0.0/40"), "7: routes[0].except[0].peer.cidr: '10.0.0.0/40' is not a network; write one as 10.0.0.0/8 or fd00::/64"),
    (route(f"{OUT}match:\n  src:\n    labels:\n      matchLabels: {{app: 3}}"), "8: routes[0].match.src.labels.matchLabels.app: must be text, is 3; put it in quotes"),
    (route(f"{OUT}match:\n  src:\n    labels:\n      matchExpressions:\n        - key: a\n          operator: In"), "9: routes[0].match.src.labels.matchExpressions[0].values: must be specified when operator is In"),
    (route(f"{OUT}sample: 0"), "5: routes[0].sample: must be more than 0 and at most 1; is 0"),
    (route("outputs:\n  - stdout: {}\n    file: {path: /a}"), "5: routes[0].outputs[0]: must be exactly one of"),
    (route("outputs:\n  - file: {preset: gke, form: ecs}"), "5: routes[0].outputs[0].file.form: cannot be used with `preset: gke`"),
    (route("outputs:\n  - file: {}"), "5: routes[0].outputs[0].file: must have exactly one of path, preset"),
    (route("outputs:\n  - file: {path: /a}\n  - file: {path: /b}"), "6: routes[0].outputs[1]: must have a name: another output of the route is called file"),
    (route("outputs:\n  - {stdout: {}, name: a}\n  - {otlp: {endpoint: 'http://b/v1/logs'}, name: a}"), "6: routes[0].outputs[1].name: another output of the route is called a"),
    (route("outputs:\n  - file: {path: /a}\n  - {file: {path: /a}, name: b}"), "6: routes[0].outputs[1].file.path: route one writes this file already"),
    (route("outputs:\n  - {file: {path: /var/a}, name: a}\n  - {file: {path: /var//b/../a}, name: b}"), "6: routes[0].outputs[1].file.path: route one writes this file already"),
    (route("outputs:\n  - file: {path: flows.jsonl}"), "5: routes[0].outputs[0].file.path: must begin with /"),
    (route("outputs:\n  - otlp: {endpoint: 'http://collector:4318'}"), "5: routes[0].outputs[0].otlp.endpoint: must be the whole URL, which ends with /v1/logs: is it http://collector:4318/v1/logs?"),
    (route("outputs:\n  - otlp: {endpoint: 'https://gateway/otlp/'}"), "5: routes[0].outputs[0].otlp.endpoint: must be the whole URL, which ends with /v1/logs: is it https://gateway/otlp/v1/logs?"),
    (route("outputs:\n  - otlp: {protocol: grpc, endpoint: 'http://u:p@collector:4317/v1/logs'}"), "5: routes[0].outputs[0].otlp.endpoint: must have no path with `protocol: grpc`: is it http://collector:4317?"),
    (route("outputs:\n  - otlp: {endpoint: 'http://[x'}"), "5: routes[0].outputs[0].otlp.endpoint: must be a URL that begins with http:// or https:// and names a host"),
    (route("outputs:\n  - otlp: {protocol: grcp, endpoint: 'http://collector:4317'}"), "5: routes[0].outputs[0].otlp.protocol: must be one of grpc, http"),
    (route("outputs:\n  - kafak: {topic: a}"), "5: routes[0].outputs[0].kafak: there is no such field; did you mean kafka?"),
    (route(f"{OUT}match:\n  reason: default-deny"), "6: routes[0].match.reason: must be one of adopted, "),
    (route(f"{OUT}match:\n  direction:\n    - 1"), "7: routes[0].match.direction[0]: must be one of egress, ingress; is 1"),
    (route(f"{OUT}match: deny"), "5: routes[0].match: must be a mapping of fields or a list, is 'deny'"),
    (route("outputs:\n  - file: /a"), "5: routes[0].outputs[0].file: must be a mapping of fields, is '/a'"),
    ("- version: 1\n", "1: must be a mapping of fields, is a list"),
    (route("outputs:\n  - kafka:\n      topic: p.flows"), "6: routes[0].outputs[0].kafka.topic: p.flows is one of kubeweir's own topics; choose another"),
    (route("outputs:\n  - kafka: {topic: a/b}"), "5: routes[0].outputs[0].kafka.topic: may have letters, digits, '.', '_', '-' and {namespace} only"),
    (route("outputs:\n  - kafka: {topic: 'a.{namespace}'}"), "5: routes[0].outputs[0].kafka.namespaces: is required with {namespace} in the topic: list the namespaces that may have a topic"),
    (route("outputs:\n  - kafka: {topic: a, namespaces: b}"), "5: routes[0].outputs[0].kafka.namespaces: has no effect without {namespace} in the topic; use match"),
    (route("outputs:\n  - kafka: {topic: a, retention: 3 days}"), "5: routes[0].outputs[0].kafka.retention: must be a whole number and a unit, such as 90s, 5m, 2h or 3d; is '3 days'"),
    (route(f"{OUT}") + "  - name: one\n    outputs: [{stdout: {}}]\n", "5: routes[1].name: another route is called one"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_mistake_is_reported_with_its_line_and_field(text: str, message: str) -> None:
    with pytest.raises(RoutesError) as caught:
        read(text.encode(), "routes.yaml", ["p.flows"])
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"routes.yaml:{message}")


def test_mistakes_of_types_and_of_meaning_are_reported_at_once() -> None:
    """Each of them would hide the others, if a file were refused at its first."""
    text = (
        "version: one\nroutes:\n- name: A\n  matches: {port: 9-8, verdict: [Deny, 1]}\n  sample: yes\n"
        "  outputs:\n  - {file: {path: a, keep: -1}}\n  - {kafka: {retention: 3}}\n"
        "  - {otlp: {endpoint: collector}, name: b}\n  - {stdout: {}, stdout: {}, name: b}\n"
    )
    with pytest.raises(RoutesError) as caught:
        read(text.encode(), "f")
    outputs = "routes[0].outputs"
    assert [problem.split(": ")[0] + " " + problem.split(": ")[1] for problem in caught.value.problems] == [
        "f:1 version", "f:3 routes[0].name", "f:4 routes[0].matches", "f:4 routes[0].matches.verdict[0]",
        "f:4 routes[0].matches.verdict[1]", "f:4 routes[0].matches.port", "f:5 routes[0].sample",
        f"f:7 {outputs}[0].file.keep", f"f:7 {outputs}[0].file.path", f"f:8 {outputs}[1].kafka.topic",
        f"f:8 {outputs}[1].kafka.retention", f"f:9 {outputs}[2].otlp.endpoint", f"f:10 {outputs}[3].stdout",
        f"f:10 {outputs}[3].name",
    ]  # fmt: skip
    for machine in ("regex", "`", "enum", "KeyError"):
        assert machine not in str(caught.value)


def test_all_mistakes_of_meaning_are_reported_at_once() -> None:
    with pytest.raises(RoutesError) as caught:
        read(route("match: {port: 9-8, protocol: x}\noutputs: [{file: {}}]").encode(), "f")
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "f:4:", "f:4:", "f:5:",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff\xfe\xff",
        b"\0",
        b"- 1\n- 2\n",
        b"a: &x [*x]\n",
        b"--- 1\n--- 2\n",
        b"? [a]\n: b\n",
        b"!!python/object:x {}",
    ],
)
def test_no_file_makes_it_fail_otherwise(junk: bytes) -> None:
    with pytest.raises(RoutesError, match=r"^f:"):
        read(junk, "f")


def test_the_published_schema_is_that_of_the_types() -> None:
    assert orjson.loads(SCHEMA.read_bytes()) == model.schema()
    jsonschema.Draft202012Validator.check_schema(model.schema())


def test_the_example_is_good_for_both() -> None:
    assert len(read(EXAMPLE.read_bytes(), "routes.yaml").routes) == 6
    jsonschema.Draft202012Validator(model.schema()).validate(yaml.safe_load(EXAMPLE.read_bytes()))


SHAPES: list[tuple[dict[str, Any], bool]] = [
    ({"version": 1, "routes": [{"name": "a", "outputs": [{"stdout": {}}], "match": {"port": [1, "2-3"]}}]}, True),
    ({"version": 1, "routes": [{"name": "a", "outputs": [{"stdout": {}}], "match": {"port": "2"}}]}, False),
    ({"version": 1, "routes": [{"name": "A", "outputs": [{"stdout": {}}]}]}, False),
    ({"version": 1, "routes": [{"name": "a", "outputs": [{"stdout": {}}], "except": [{"reason": "x"}]}]}, False),
]


@pytest.mark.parametrize(("file", "good"), SHAPES)
def test_the_published_schema_and_the_reader_agree(file: dict[str, Any], good: bool) -> None:
    assert jsonschema.Draft202012Validator(model.schema()).is_valid(file) is good
    if good:
        read(orjson.dumps(file), "f")
    else:
        with pytest.raises(RoutesError):
            read(orjson.dumps(file), "f")


def test_every_reason_may_be_named() -> None:
    assert set(get_args(Reasons)) == {reason.name.lower() for reason in Reason}
