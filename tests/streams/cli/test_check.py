"""`weir check`: its exit codes, and what people and programs get."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import orjson
import pytest
import yaml
from click.testing import CliRunner, Result

from enrich.checking.finding import RULES
from streams.cli.main import command

WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: none}]}}}
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec: {podSelector: {matchLabels: {app: %s}}}
"""
BAD = f"{WEB}---\n{POLICY % 'wbe'}"
WARNED = f"{WEB}---\n{POLICY.replace('}}}', '}}, policyTypes: [Egress]}') % 'web'}"


def run(*arguments: object, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(command, ["check", *map(str, arguments)], input=stdin)


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        (f"{WEB}---\n{POLICY % 'web'}", (), 0),
        (WARNED, (), 0),
        (WARNED, ("--strict",), 1),
        (WARNED, ("--strict", "--ignore", "closed-without-dns"), 0),
        (BAD, (), 1),
        (BAD, ("--ignore", "policy-selects-nothing"), 0),
        (POLICY.replace("podSelector", "podSelektor") % "web", (), 1),
        ("a: [", (), 2),
        (f"{WEB}---\na: [", (), 2),
        ("", (), 2),
        ("kind: ConfigMap\napiVersion: v1\n", (), 2),
        (WEB, ("--ignore", "unreadable"), 2),
    ],
)
def test_exit_codes(text: str, options: tuple[str, ...], code: int) -> None:
    assert run("-", *options, stdin=text).exit_code == code


def test_a_missing_file_and_no_file_are_2(tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert "No such file" in run(tmp_path / "none.yaml").stdout
    assert run(tmp_path / "none.yaml").exit_code == 2
    assert run(tmp_path).exit_code == 2


def test_a_name_that_no_file_can_have_is_2() -> None:
    done = run("a" * 5_000)
    assert (done.exit_code, "cannot be read: File name too long" in done.stdout) == (2, True)


@pytest.mark.parametrize(
    ("namespace", "code", "said"),
    [
        ("shop", 1, "1 error and 0 warnings for namespace shop in 5 objects of 1 file"),
        ("edge", 0, "0 errors and 0 warnings for namespace edge in 5 objects of 1 file"),
        ("shpo", 2, "no file has an object of namespace shpo; did you mean shop?"),
    ],
)
def test_only_the_findings_of_a_namespace(namespace: str, code: int, said: str) -> None:
    edge = f"---\n{WEB}---\n{POLICY % 'web'}".replace("shop", "edge")
    everywhere = (
        "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: c}\n"
        "spec:\n  tier: Admin\n  priority: 1\n  subject:\n    pods:\n"
        "      namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}\n"
        "      podSelector: {matchLabels: {a: b}}\n"
    )
    done = run("-", "-n", namespace, stdin=f"{BAD}{edge}{everywhere}")
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert f"left out: {1 if namespace == 'shop' else 2} finding" in done.stderr


@pytest.mark.parametrize(
    ("mistake", "code"),
    [
        (POLICY.replace("podSelector", "podSelektor") % "web", 0),
        (POLICY.replace("namespace", "namspace") % "web", 1),
        (POLICY.replace("NetworkPolicy", "NetworkPolicies") % "web", 0),
        ("apiVersion: v1\nkind: [Pod]\nmetadata: {namespace: shop}\n", 0),
        ("- apiVersion: v1\n", 1),
        ("7", 0),
        ("a: [", 2),
    ],
)
def test_a_mistake_counts_for_every_namespace_unless_it_names_its_own(mistake: str, code: int) -> None:
    edge = WEB.replace("shop", "edge")
    assert run("-", "-n", "edge", stdin=f"{edge}---\n{mistake}").exit_code == code


def test_people_see_where_what_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(BAD + "---\napiVersion: v1\nkind: ConfigMap\n")
    done = run(tmp_path)
    assert done.stdout.splitlines() == [
        f"{file}:9 (document 2): error: NetworkPolicy shop/p: spec.podSelector: no pod of namespace shop has app=wbe, "
        "so the policy does nothing [policy-selects-nothing]",
        "    did you mean app=web?",
        "1 error and 0 warnings in 2 objects of 1 file",
    ]
    assert done.stderr == "weir: not read, because policies do not depend on it: 1 ConfigMap\n"


def test_json_has_every_part() -> None:
    made = orjson.loads(run("-", "-o", "json", stdin=BAD).stdout)
    assert (made["schema"], made["files"], made["objects"], made["skipped"]) == (1, 1, 2, {})
    assert made["findings"] == [
        {
            "rule": "policy-selects-nothing", "level": "error", "file": "standard input", "document": 2, "line": 9,
            "item": None, "object": "NetworkPolicy shop/p",
            "text": "spec.podSelector: no pod of namespace shop has app=wbe, so the policy does nothing",
            "todo": "did you mean app=web?",
        }
    ]  # fmt: skip


def test_every_rule_is_listed() -> None:
    assert [line.split()[0] for line in run("--rules").stdout.splitlines()] == [rule.id for rule in RULES]


def test_names_of_files_cannot_write_to_a_terminal_or_break_a_report(tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[31m\u202e\udcff<&.yaml"
    try:
        odd.write_text(BAD)
    except OSError:
        pytest.skip("the file system does not take such names")
    for output in ("text", "json", "sarif", "junit"):
        done = run(tmp_path, "-o", output)
        assert (done.exit_code, b"\x1b" in done.stdout_bytes) == (1, False), done.stderr
        if output == "junit":
            ET.fromstring(done.stdout_bytes)  # noqa: S314 - it is our own text


def test_a_terminal_that_lacks_a_letter_gets_its_escape(tmp_path: Path) -> None:
    (tmp_path / "caf\xe9.yaml").write_text(BAD)
    done = subprocess.run(
        [Path(sys.prefix) / "bin/weir", "check", tmp_path],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")
    assert rb"/caf\xe9.yaml:9 (document 2): error: " in done.stdout


@pytest.mark.parametrize("output", ["text", "json", "sarif", "junit"])
def test_a_pull_request_cannot_command_the_ci_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    """GitHub obeys a line that begins with ``::``, and ``##[...]`` anywhere in it; Azure obeys ``##vso[...]``."""
    field = "'##vso[task.setvariable variable=a]b': 1, '##[add-mask]c': 1, \"a\\n::error::b\": 1"
    (tmp_path / "::add-mask::x.yaml").write_text(
        POLICY.replace("podSelector", f"{field}, podSelector") % "web"
        + "---\napiVersion: 'a.b/v1'\nkind: '##vso[x]y'\n---\napiVersion: v1\nkind: \"a\\n::error::b\"\n"
    )
    monkeypatch.chdir(tmp_path)
    done = run(".", "-o", output)
    assert done.exit_code == 1
    assert not re.search(r"^\s*::|##\w*\[", done.stdout + done.stderr, re.MULTILINE)
    if output in ("json", "sarif"):
        assert "##vso[task.setvariable variable=a]b" in str(orjson.loads(done.stdout))


def test_an_address_is_no_command() -> None:
    policy = POLICY.replace("}}}", "}}, ingress: [{from: [{ipBlock: {cidr: '::/200'}}]}]}") % "web"
    assert "'::/200' is not a CIDR" in run("-", stdin=policy).stdout


def test_sarif_has_what_readers_of_it_require() -> None:
    """The required properties of SARIF 2.1.0, and those without which GitHub shows no line."""
    log = orjson.loads(run("-", "-o", "sarif", stdin=BAD).stdout)
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run_of,) = log["runs"]
    rules = run_of["tool"]["driver"]["rules"]
    assert run_of["tool"]["driver"]["name"] == "weir check"
    assert [rule["id"] for rule in rules] == [rule.id for rule in RULES]
    assert run_of["invocations"][0]["executionSuccessful"] is True
    unread = orjson.loads(run("-", "-o", "sarif", stdin="a: [").stdout)["runs"][0]
    assert unread["invocations"][0]["executionSuccessful"] is False
    assert "region" not in unread["results"][0]["locations"][0]["physicalLocation"]
    (result,) = run_of["results"]
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "policy-selects-nothing"
    assert result["level"] == "error"
    assert "did you mean app=web?" in result["message"]["text"]
    (location,) = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "standard%20input"}, "region": {"startLine": 9},
    }  # fmt: skip


def test_junit_fails_for_errors_only() -> None:
    root = ET.fromstring(run("-", "-o", "junit", stdin=BAD).stdout_bytes)  # noqa: S314 - it is our own text
    (case,) = root.findall("testsuite/testcase")
    assert (root.get("tests"), root.get("failures")) == ("1", "1")
    assert "did you mean app=web?" in (case.find("failure").text or "")  # type: ignore[union-attr]
    warned = ET.fromstring(run("-", "-o", "junit", stdin=WARNED).stdout_bytes)  # noqa: S314 - as above
    assert (warned.get("tests"), warned.get("failures")) == ("1", "0")
    assert "warning" in (warned.findtext("testsuite/testcase/system-out") or "")
    nothing = ET.fromstring(run("-", "-o", "junit", stdin=WEB).stdout_bytes)  # noqa: S314 - as above
    assert (nothing.get("tests"), nothing.get("failures")) == ("1", "0")


@pytest.mark.parametrize("name", ["github.yaml", "gitlab.yaml"])
def test_the_examples_run_a_command_that_there_is(tmp_path: Path, name: str) -> None:
    text = (Path(__file__).parents[3] / "deploy/examples/ci" / name).read_text()
    assert yaml.safe_load(text)
    (line,) = re.findall(r"- (?:run: )?weir check (.*) > ", text)
    (tmp_path / "app.yaml").write_text(WEB)
    assert run(*line.replace("manifests/", str(tmp_path)).split()).exit_code == 0
