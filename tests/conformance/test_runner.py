"""Tests of the runner: it reads any folder, passes correct cases, and fails or refuses the others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.case import MalformedError
from tests.conformance.runner import check, select
from tests.conformance.suite import OWN, PUBLIC, ROOT

SAMPLE = (
    "cyclonus-example-001*",  # a namespace and a pod are created and deleted; 3,900 rows in a step
    "cyclonus-portprotocol-052*",  # SCTP, a range of ports
    "cyclonus-peers-057*",  # a block with an exception
    "e2e-tcp-21*",  # a namespace is relabelled
    "e2e-tcp-38*",  # SCTP is not TCP
    "e2e-udp-44*",
    "e2e-sctp-47*",
    "k8sdocs-01*",  # outside hosts in several blocks
    "nodes-0[145]*",  # two nodes, pods on the host's network
    "npapi-02*",  # ClusterNetworkPolicy: nodes and networks as peers
    "npapi-12*",  # all tiers, step by step
    "npapi-pola-1[03]*",
    "recipe-09-named*",
    "recipe-11*",
)
"""Public cases that run with real packets. They include each origin and each kind of end."""


def table(marks: str) -> dict[str, Any]:
    return {"probes": ["80/TCP"], "to": ["shop/db"], "from": {"shop/web": marks}}


def conformance(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.conformance", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1500)


def passed(done: subprocess.CompletedProcess[str], cases: int) -> None:
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
    assert done.stdout == f"{cases} passed, 0 failed\n"


@pytest.mark.kernel
@pytest.mark.timeout(1600)
def test_the_program_agrees_with_every_public_case() -> None:
    passed(conformance("--mode", "run", PUBLIC), len(list(PUBLIC.rglob("*.json"))))


@pytest.mark.kernel
@pytest.mark.timeout(1600)
def test_packets_agree_with_a_sample_of_the_public_cases(tmp_path: Path) -> None:
    files = [file for glob in SAMPLE for file in PUBLIC.rglob(f"{glob}.json")]
    for file in files:
        (tmp_path / file.name).symlink_to(file)
    assert {file.parent.name for file in files} == {folder.name for folder in PUBLIC.iterdir()}
    passed(conformance("--mode", "wire", tmp_path), len(files))


@pytest.mark.kernel
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["run", "wire"])
def test_own_cases_pass(mode: str) -> None:
    passed(conformance("--mode", mode, OWN), len(list(OWN.rglob("*.json"))))


@pytest.mark.kernel
@pytest.mark.timeout(600)
def test_a_node_that_a_case_does_not_use_gets_its_pods_again_in_the_next(tmp_path: Path) -> None:
    for name, case in (("1", "own-v6-around-v4"), ("2", "own-steps"), ("3", "own-v6-around-v4")):
        (tmp_path / f"{name}.json").symlink_to(OWN / f"{case}.json")
    passed(conformance("--mode", "run", "--family", 4, tmp_path), 3)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Callable[[Any], object]], Path]:
    """Make a folder with one correct case that ``edit`` changes."""

    def make(edit: Callable[[Any], object]) -> Path:
        case = json.loads((OWN / "own-nodes-and-blocks.json").read_text())
        edit(case)
        (tmp_path / "case.json").write_text(json.dumps(case))
        return tmp_path

    return make


@pytest.mark.kernel
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["run", "wire"])
def test_wrong_rows_fail_and_are_explained(mode: str, edited: Callable[..., Path]) -> None:
    wrong = {
        ("shop/web", "shop/db", "80/TCP"): False,
        ("shop/web", "shop/db", "53/UDP"): True,
        ("shop/web", "shop/db", "9000/SCTP"): False,
        ("shop/web", "ext:near", "443/TCP"): True,
    }
    host = {("node:n2", "shop/db", "53/UDP"): False}

    def edit(case: Any) -> None:
        expect = case["steps"][0]["expect"]
        for rows, changes in ((expect["truth"], wrong), (expect["host_truth"], host)):
            for row in rows:
                row[3] = changes.get(tuple(row[:3]), row[3])

    folder = edited(edit)
    (folder / "right.json").write_text((OWN / "own-tiers.json").read_text())
    done = conformance("--mode", mode, "--family", "6", folder)
    assert done.returncode == 1, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "1 passed, 1 failed"
    assert len(lines) == len(wrong) + len(host)
    for (source, destination, port), expected in (wrong | host).items():
        words = ("allowed", "denied") if expected else ("denied", "allowed")
        begin = f"FAIL own-nodes-and-blocks (IPv6): step 1: {source} -> {destination} {port}: "
        (line,) = [line for line in lines if line.startswith(begin)]
        assert f"expected {words[0]}, found {words[1]}; explain: " in line
    assert "shop/web" in next(line for line in lines if "ext:near" in line).partition("explain")[2]


@pytest.mark.kernel
def test_an_invalid_policy_fails_its_case(edited: Callable[..., Path]) -> None:
    def edit(case: Any) -> None:
        case["steps"][0]["actions"][0]["object"]["spec"]["ingress"] = [{"ports": [{"port": 70000}]}]

    done = conformance("--mode", "run", "--family", "4", edited(edit))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not in force: spec.ingress[0].ports[0].port" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_a_folder_without_cases_is_an_error(tmp_path: Path) -> None:
    for folder, message in ((tmp_path, "has no case"), (tmp_path / "absent", "is not a folder")):
        done = conformance(folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert str(folder) in done.stderr
        assert message in done.stderr


def test_a_malformed_case_is_reported_before_anything_runs(edited: Callable[..., Path]) -> None:
    done = conformance(edited(lambda case: case["cluster"]["pods"][0].pop("ip")))
    assert (done.returncode, done.stdout) == (2, "")
    assert "case.json: Object missing required field `ip` - at `$.cluster.pods[0]`" in done.stderr


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda case: case.update(steps=[]), "steps"),
        (lambda case: case["steps"][0].pop("expect"), "Object missing required field `expect`"),
        (lambda case: case["steps"][0]["actions"][0].update(kind="Secret"), "Invalid enum value 'Secret'"),
        (lambda case: case["steps"][0]["expect"]["truth"][0].pop(), "truth[0]"),
        (lambda case: case["steps"][0].update(expect={}), "a step expects nothing"),
        (lambda case: case["steps"][0]["expect"].update(tables=[table("+-")]), "2 marks for 1"),
        (lambda case: case["steps"][0]["expect"].update(tables=[table("x")]), "tables[0]"),
        (lambda case: case["steps"][0]["expect"]["truth"].append(["shop/x", "shop/db", "80/TCP", True]), "'shop/x'"),
        (lambda case: case["steps"][0]["expect"]["truth"].append(["shop/web", "shop/db", "80", True]), "'80'"),
        (lambda case: case["steps"][0]["expect"]["truth"].append(["shop/web", "shop/db", "80/ICMP", True]), "ICMP"),
        (lambda case: case["cluster"]["pods"][0].update(node="n9"), "there is no node 'n9'"),
        (lambda case: case["cluster"]["pods"][0].update(ip="10.1.2.2"), "has the address of"),
        (lambda case: case["cluster"]["pods"][0].update(ip="10.1.2"), "10.1.2"),
        (lambda case: case["cluster"]["pods"][2].update(ip="10.1.9.9"), "on the host's network"),
        (lambda case: case["steps"][0]["actions"].append(
            {"op": "update", "kind": "Pod labels", "object": {"metadata": {"namespace": "shop", "name": "x"}}}
        ), "there is no pod shop/x"),
        (lambda case: case["steps"][0]["actions"].append(
            {"op": "delete", "kind": "NetworkPolicy", "object": {}}
        ), "the object has no name"),
    ],
)  # fmt: skip
def test_the_message_says_what_is_wrong_with_a_case(
    edit: Callable[[Any], object], message: str, edited: Callable[..., Path]
) -> None:
    file = edited(edit) / "case.json"
    with pytest.raises(MalformedError, match=r"case\.json") as caught:
        check(file)
    assert message in str(caught.value)


def test_a_file_that_is_not_json_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"id": ')
    with pytest.raises(MalformedError, match=r"broken\.json"):
        select(tmp_path)


def test_cases_are_selected_by_id_or_by_path(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one.json").symlink_to(OWN / "own-steps.json")
    (tmp_path / "two.json").symlink_to(OWN / "own-tiers.json")
    assert [file.name for file in select(tmp_path)] == ["one.json", "two.json"]
    assert [file.name for file in select(tmp_path, "own-t*")] == ["two.json"]
    assert [file.name for file in select(tmp_path, "below/*")] == ["one.json"]
    with pytest.raises(MalformedError, match="none of 2 cases matches 'absent'"):
        select(tmp_path, "absent")
