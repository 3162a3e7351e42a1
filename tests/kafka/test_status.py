"""`weir status` over a real Apache Kafka and real workers: it adds up through a kill, and names what vanished."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from enrich.wire.tally import KernelTally, NodeState, Tally
from streams.cli.main import command
from tests.kafka.batches import make_batch, write_manifests
from tests.kafka.site import Site, until

pytestmark = pytest.mark.kafka


def tally(verdicts: int, **state: Any) -> dict[str, Any]:
    """The header's field with a tally of so many verdicts, each of one decision, and ten more that were cut."""
    kernel = KernelTally(decided=(verdicts + 10, verdicts + 10), written=verdicts, waiting=0,
                           cut={"logging_allowed": 10}, ring=(verdicts, verdicts), verdicts=verdicts)  # fmt: skip
    return {"tally": Tally(at=1, every=600, kernel=kernel, state=NodeState(version="1.2.3", **state))}


def status(site: Site, *arguments: str) -> Result:
    arguments = ("status", "--kafka", site.broker, "--topic-prefix", site.prefix, *arguments)
    return CliRunner().invoke(command, arguments, env=site.env())


def answer(site: Site, verdicts: int) -> tuple[int, dict[str, Any]]:
    """Return exit code and JSON once the node has given a tally of so many verdicts."""

    def look() -> tuple[int, dict[str, Any]] | None:
        found = status(site, "-o", "json")
        if found.exception and not isinstance(found.exception, SystemExit):
            raise found.exception
        shown = json.loads(found.stdout) if found.stdout else {}
        nodes = shown.get("nodes") or [{}]
        arrived = nodes[0].get("stages", {}).get("arrival", {}).get("total", [0])
        return (found.exit_code, shown) if arrived[0] >= verdicts else None

    return until(look, f"a tally of {verdicts} verdicts")


def test_all_adds_up_through_a_kill_and_repeats_and_what_vanished_is_named(site: Site) -> None:
    write_manifests(site.folder / "manifests")
    worker = site.start_enrich()
    suspicious = {"NetworkPolicy shop/web": "True"}
    for batch in (make_batch(0, 100), make_batch(100, 50, denied=True), make_batch(150, 0, tally(150))):
        site.send(batch)
    site.flush()
    exit_code, shown = answer(site, 150)
    assert (exit_code, shown["problems"], shown["adds_up"]) == (0, [], True)
    worker.process.kill()
    worker.process.wait()
    for batch in (make_batch(100, 50, denied=True), make_batch(150, 50), make_batch(200, 7, tally(207))):
        site.send(batch)
    site.flush()
    site.start_enrich()
    exit_code, shown = answer(site, 207)
    assert (exit_code, shown["problems"]) == (0, [])
    [node] = shown["nodes"]
    assert node["stages"]["kernel"]["cut:logging_allowed"] == 10
    assert node["stages"]["flows"]["written"] == node["stages"]["arrival"]["read"] == 207

    def positions() -> list[dict[str, Any]] | None:
        """The group's offsets, which the new worker commits a moment after it has written the tally."""
        consumers = answer(site, 207)[1]["consumers"]
        return [one for one in consumers if one["group"].endswith("enrich")] or None

    [group] = until(positions, "the offsets of the workers")
    assert group["topic"] == f"{site.prefix}.verdicts.raw"
    site.send(b"no batch")
    site.send(make_batch(257, 3, tally(260, suspicious=suspicious)))
    site.flush()
    exit_code, shown = answer(site, 260)
    assert exit_code == 1
    assert [(one["node"], one["stage"], one["reason"], one["count"]) for one in shown["problems"]] == [
        ("n1", "arrival", "gap", 50)
    ]
    assert shown["dead_letters"] == {"no_header": 1}
    text = status(site)
    assert text.exit_code == 1
    assert "n1: arrival: gap: 50 verdicts did not arrive, or arrived unreadable and are a dead letter" in text.stdout
    assert "NetworkPolicy shop/web: 'True'" in text.stdout
    assert text.stdout.endswith("Not all is accounted for: 1 problem, see above.\n")
