"""`weir status` tallies for all that a real kernel has decided, from the packet to the record."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from streams.cli.main import command
from tests.kafka.site import until
from tests.services.conftest import Running

pytestmark = pytest.mark.e2e


def test_all_that_the_node_has_decided_is_accounted_for(running: Running) -> None:
    for _ in range(20):
        running.send()

    def look() -> dict[str, Any] | None:
        arguments = ["status", "-o", "json", "--kafka", running.site.broker, "--topic-prefix", running.site.prefix]
        found = CliRunner().invoke(command, arguments)
        shown: dict[str, Any] = json.loads(found.stdout) if found.stdout else {}
        assert shown.get("adds_up") is not True or found.exit_code == 0
        terms = shown["nodes"][0]["stages"]["kernel"] if shown.get("nodes") else {}
        return shown if terms.get("written", 0) >= 40 else None

    shown = until(look, "a tally of what was sent")
    [node] = shown["nodes"]
    assert {stage: terms["unaccounted"] for stage, terms in node["stages"].items()} == dict.fromkeys(node["stages"], 0)
    assert (shown["problems"], shown["adds_up"]) == ([], True)
    assert node["stages"]["flows"]["written"] == node["stages"]["arrival"]["total"][0] > 20
    assert node["state"]["version"]
    assert {"policy_entries", "addresses"} <= node["state"]["capacity"].keys()
    topics = {one["group"].rpartition(".route.")[2]: one["topic"] for one in shown["consumers"]}
    assert topics["denied.file"].endswith(".flows.denied")
