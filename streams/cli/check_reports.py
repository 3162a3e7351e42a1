"""The findings of `weir check` for programs: JSON of its own, SARIF for code scanning, JUnit for test reports."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from enrich.checking.finding import RULES, UNREADABLE, CheckRule, Finding
from enrich.runtime.version import version_text
from enrich.sources.repository import Repository
from streams.cli.terminal import printable

_COMMANDS: Final = re.compile(r"^(?=\s*::)|##(?=\w*\[)")
_SARIF: Final = "2.1.0"
_SARIF_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def log_text(text: str) -> str:
    """Return a text in one line that neither a terminal nor a CI system obeys. Those take commands from a job's log: at
    the begin of a line (``::error::``), or anywhere in it (``##[error]`` and ``##vso[...]``)."""
    return _COMMANDS.sub(lambda found: "\\x23#" if found[0] else "\\", printable(text))


def _json(document: dict[str, Any]) -> str:
    """Return JSON without what a CI system obeys anywhere in a line."""
    return json.dumps(document).replace("##", r"#\u0023")


def as_json(repository: Repository, findings: Sequence[Finding], notes: Sequence[str]) -> str:
    """Return the findings, and what was read."""
    return _json(
        {
            "schema": 1,
            "files": repository.files,
            "objects": len(repository.written),
            "skipped": dict(sorted(repository.skipped.items())),
            "notes": list(notes),
            "findings": [
                {
                    "rule": one.rule.id,
                    "level": one.rule.level,
                    "file": one.place.file,
                    "document": one.place.document or None,
                    "line": one.place.line or None,
                    "item": one.place.item or None,
                    "object": one.subject or None,
                    "text": one.text,
                    "todo": one.todo or None,
                }
                for one in findings
            ],
        }
    )


def as_sarif(_repository: Repository, findings: Sequence[Finding], notes: Sequence[str]) -> str:
    """Return a log of SARIF 2.1.0, which GitHub, GitLab and others show beside the lines."""
    numbers = {rule.id: number for number, rule in enumerate(RULES)}
    driver = {
        "name": "weir check",
        "semanticVersion": version_text(),
        "rules": [_sarif_rule(rule) for rule in RULES],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "utf16CodeUnits",
        "invocations": [
            {
                "executionSuccessful": all(one.rule is not UNREADABLE for one in findings),
                "toolExecutionNotifications": [{"level": "note", "message": {"text": note}} for note in notes],
            }
        ],
        "results": [_sarif_result(one, numbers[one.rule.id]) for one in findings],
    }
    return _json({"$schema": _SARIF_SCHEMA, "version": _SARIF, "runs": [run]})


def _sarif_rule(rule: CheckRule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.text},
        "defaultConfiguration": {"level": rule.level},
    }


def _sarif_result(one: Finding, number: int) -> dict[str, Any]:
    place = one.place
    location: dict[str, Any] = {"artifactLocation": {"uri": _uri(place.file)}}
    if place.line:
        location["region"] = {"startLine": place.line}
    return {
        "ruleId": one.rule.id,
        "ruleIndex": number,
        "level": one.rule.level,
        "message": {"text": _message(one)},
        "locations": [{"physicalLocation": location}],
    }


def _uri(file: str) -> str:
    """Return the address of a file, below the folder in which the command runs if the name has no folder before it.
    Names of files are bytes, and need not be UTF-8."""
    return f"{'file://' if file.startswith('/') else ''}{quote(os.fsencode(file))}"


def as_junit(repository: Repository, findings: Sequence[Finding], notes: Sequence[str]) -> str:
    """Return a report in JUnit's XML: a test for each finding, which has failed if it is an error, and one that passed
    if there are no findings."""
    errors = [one for one in findings if one.rule.level == "error"]
    counts = {"tests": str(len(findings) or 1), "failures": str(len(errors)), "errors": "0"}
    root = ET.Element("testsuites", {"name": "weir check", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "weir check", **counts, "skipped": "0"})
    for one in findings:
        where = one.place.file_and_line
        name = log_text(f"{one.rule.id} {where} {one.subject}".rstrip())
        case = ET.SubElement(suite, "testcase", {"name": name, "classname": one.rule.id})
        case.set("file", log_text(one.place.file))
        message = log_text(_message(one))
        if one.rule.level == "error":
            failure = ET.SubElement(case, "failure", {"message": message, "type": one.rule.id})
            failure.text = f"{log_text(where)}: {message}"
        else:
            ET.SubElement(case, "system-out").text = f"{log_text(where)}: warning: {message}"
    if not findings:
        ET.SubElement(suite, "testcase", {"name": f"{len(repository.written)} objects", "classname": "weir check"})
    ET.SubElement(suite, "system-err").text = "\n".join(map(log_text, notes))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def _message(one: Finding) -> str:
    about = f"{one.subject}: " if one.subject else ""
    return f"{about}{one.text}{f'. To do: {one.todo}' if one.todo else ''}"
