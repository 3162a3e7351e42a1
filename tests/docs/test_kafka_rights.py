"""The page of rights, the manifests and the commands say what the list of rights says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

from enrich.wire.rights import RIGHTS
from enrich.wire.topics import topics
from tests.docs.pages import ROOT

_KAFKA = ROOT / "deploy" / "kafka"
_LISTED = {
    (right.principal, right.resource, right.full_name("kubeweir", "CLUSTER"), right.prefixed, right.operation)
    for right in RIGHTS
}
_RESOURCES = {"--topic": "topic", "--group": "group", "--transactional-id": "transactionalId"}


def test_the_page_has_every_right_under_its_principal() -> None:
    text = (ROOT / "docs/kafka-acls.md").read_text()
    found = set()
    for principal, section in re.findall(r"^## (\w+)\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL):
        rows = re.findall(r"^\| (\w+) \| `(\S+)`( \(prefixed\))? \| (\w+) \|", section, re.MULTILINE)
        found |= {
            (principal, resource, name, bool(prefixed), operation) for resource, name, prefixed, operation in rows
        }
    assert found == _LISTED


def test_readers_may_read_each_topic_that_a_command_of_weir_reads() -> None:
    sources = [*(ROOT / "streams" / "cli").glob("*.py"), ROOT / "streams" / "journal" / "reading.py"]
    asked = {name for path in sources for name in re.findall(r"topics\.(\w+)\.name", path.read_text())}
    assert {"flows", "journal", "pairs"} <= asked
    names = {getattr(topics("kubeweir", 32), attribute).name for attribute in asked}
    readers = {(resource, name) for principal, resource, name, _, operation in _LISTED
               if principal == "readers" and operation == "Read"}  # fmt: skip
    needed = {("topic", name) for name in names} | {("group", f"{name}.reader") for name in names}
    # Not everybody who reads flows is to read raw verdicts, so the page names these as what else may be needed.
    more = {("topic", "kubeweir.verdicts.raw"), ("group", "kubeweir.verdicts.raw.reader")}
    assert needed - readers == more
    extra = (ROOT / "docs/kafka-acls.md").read_text().partition("- **`weir sql`**")[2].partition("\n- ")[0]
    assert all(f"`{name}`" in extra for _, name in more)


def test_the_users_of_strimzi_have_the_same_rights() -> None:
    found = set()
    for user in yaml.safe_load_all((_KAFKA / "users.yaml").read_text()):
        for acl in user["spec"]["authorization"]["acls"]:
            resource, name = acl["resource"]["type"], acl["resource"]["name"]
            prefixed = {"prefix": True, "literal": False}[acl["resource"]["patternType"]]
            principal = user["metadata"]["name"].removeprefix("kubeweir-")
            found |= {(principal, resource, name, prefixed, operation) for operation in acl["operations"]}
    assert found == _LISTED


def test_the_commands_give_the_same_rights(tmp_path: Path) -> None:
    program = tmp_path / "kafka-acls"
    program.write_text('#!/bin/sh\nprintf "%s\\t" "$@"; echo\n')
    program.chmod(0o755)
    done = subprocess.run(
        [_KAFKA / "acls.sh", "kafka:9092", "CLUSTER", "admin.properties"],
        env={**os.environ, "KAFKA_ACLS": str(program)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = set()
    for line in done.stdout.splitlines():
        words = line.rstrip("\t").split("\t")
        assert words[:6] == [
            "--bootstrap-server",
            "kafka:9092",
            "--command-config",
            "admin.properties",
            "--add",
            "--force",
        ]
        options = list(zip(words[6::2], words[7::2], strict=True))
        given = dict(options)
        prefixed = given.get("--resource-pattern-type") == "prefixed"
        principal = given["--allow-principal"].removeprefix("User:kubeweir-")
        names = [(_RESOURCES[option], name) for option, name in options if option in _RESOURCES]
        found |= {(principal, resource, name, prefixed, given["--operation"]) for resource, name in names}
    assert found == _LISTED


def test_the_topics_of_strimzi_are_those_that_the_services_create() -> None:
    found = {
        made["metadata"]["name"]: made["spec"] for made in yaml.safe_load_all((_KAFKA / "topics.yaml").read_text())
    }
    assert found == {one.name: {"partitions": one.partitions, "config": one.config} for one in topics("kubeweir", 32)}
