"""``docs/record.md`` has every field and every reason, and its jq lines give its examples from its own records."""

from __future__ import annotations

import re
import shutil
import subprocess

import orjson
import pytest

from enrich.wire.batch import Reason
from tests.docs.pages import page, unquoted
from tests.schemas import described, load, validator

PAGE = page("docs/record.md")
RECORDS = PAGE.blocks("json")
ROWS = list(PAGE.rows("field"))


def test_every_field_of_the_schema_is_explained() -> None:
    ends = {"src", "dest"}
    fields = {path.lstrip(".") for path in described(load("flow"))}
    wanted = {field for field in fields if not field.startswith("dest.")}
    assert {field.partition(".")[2] for field in fields if field.startswith("dest.")} == {
        field.partition(".")[2] for field in fields if field.startswith("src.")
    }
    assert wanted - ends == {unquoted(row[0]) for row in ROWS} - ends


def test_every_member_of_a_report_is_explained() -> None:
    explained = {name for row in PAGE.rows("member") for name in re.findall(r"`(ended\.\w+)`", row[0])}
    assert explained == {path.lstrip(".") for path in described(load("ended")) if path.startswith(".ended.")}
    named = set(re.findall(r"`(\w+)`", next(row[1] for row in PAGE.rows("member") if "ended.how" in row[0])))
    assert set(load("ended")["properties"]["ended"]["properties"]["how"]["enum"]) <= named


def test_every_reason_is_explained() -> None:
    sections = PAGE.sections(3)
    assert set(sections) == {reason.name.lower() for reason in Reason}
    for name, text in sections.items():
        assert re.search(r"\*\*What happened:\*\* \S", text), name
        assert re.search(r"\*\*What to do:\*\* \S", text), name


def test_the_example_records_are_as_the_schema_says() -> None:
    closed = validator(load("flow"), closed=True)
    assert RECORDS
    for record in RECORDS:
        closed.validate(orjson.loads(record))


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: run deploy/local/setup")
def test_each_jq_line_gives_the_example_from_the_example_records() -> None:
    records = "\n".join(RECORDS)
    for field, example, expression, _ in ROWS:
        done = subprocess.run(
            ["jq", "-c", unquoted(expression)], input=records, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{field}: {done.stderr}"
        assert unquoted(example) in done.stdout.splitlines(), field


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: run deploy/local/setup")
def test_the_jq_line_of_audit_mode_names_policies_with_and_without_a_namespace() -> None:
    (expression,) = re.findall(r"jq -r '([^']+)'", page("docs/operate.md").text)
    policies = [
        {"kind": "NetworkPolicy", "namespace": "shop", "name": "db"},
        {"kind": "ClusterNetworkPolicy", "name": "no-metadata"},
    ]
    record = orjson.dumps({"isolated_by": policies[:1], "policies": policies[1:]})
    done = subprocess.run(["jq", "-r", expression], input=record, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == ["NetworkPolicy shop/db", "ClusterNetworkPolicy no-metadata"]
