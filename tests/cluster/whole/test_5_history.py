"""A test of questions about the past: policies that weir recommends, and a change whose backtest comes true."""

from __future__ import annotations

import json
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from tests.cluster.whole.real import PORT, Real, addresses, deployment, from_app, policy, until
from tests.cluster.whole.story import Pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]

BOOKS = "books"
"""A namespace of its own: nothing else was seen in it, so it is known what the answers must be."""


@pytest.fixture(scope="module")
def pods(real: Real) -> dict[str, Pod]:
    """Start an API, a reader that policy allows to connect to it, and another app that it denies, from the start."""
    real.kubectl("create", "namespace", BOOKS)
    apply(real, policy("written", "api", ingress=[from_app("reader")]))
    apply(real, *map(deployment, ("api", "reader", "other")))
    for app in ("api", "reader", "other"):
        real.wait_rolled_out(f"deploy/{app}", BOOKS)
    return {app: real.pods(app, BOOKS)[0] for app in ("api", "reader", "other")}


def apply(real: Real, *objects: dict[str, Any]) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    real.kubectl("-n", BOOKS, "apply", "--validate=strict", "-f", "-", stdin=json.dumps(items))


def policies(real: Real) -> set[str]:
    """Return the names of the policies that the namespace has."""
    return {one["metadata"]["name"] for one in real.get("networkpolicies", namespace=BOOKS)["items"]}


def connects_in(answer: CompletedProcess[str], client: str, server: str) -> tuple[bool, bool]:
    """Return whether the client's policy lets it out to the server, and whether the server's policy lets it in."""
    found = {
        (
            one["spec"]["podSelector"]["matchLabels"]["app"],
            way,
            peer.get("podSelector", {}).get("matchLabels", {}).get("app"),
        )
        for one in yaml.safe_load_all(answer.stdout)
        if one
        for way, side in (("egress", "to"), ("ingress", "from"))
        for rule in one["spec"].get(way, ())
        for peer in rule[side]
    }
    return (client, "egress", server) in found, (server, "ingress", client) in found


def test_recommended_policies_allow_what_was_seen_and_nothing_that_was_denied(real: Real, pods: dict[str, Pod]) -> None:
    api, reader, other = pods["api"], pods["reader"], pods["other"]
    for address in addresses(api):
        assert real.gets_no_answer(other, address)
        real.opens(reader, address)
    asked: list[CompletedProcess[str]] = []

    def knows() -> bool:
        """Return whether the counts, which each worker writes every 20 s, have the verdicts of both ends."""
        asked[:] = [real.weir("recommend", "-n", BOOKS, "--since", "1h")]
        return asked[0].returncode in (0, 1) and connects_in(asked[0], "reader", "api") == (True, True)

    until("weir recommend knows what was seen", knows, describe=lambda: asked)
    (answer,) = asked
    assert answer.returncode == 0, answer
    assert not connects_in(answer, "other", "api")[1]
    real.kubectl("apply", "--validate=strict", "-f", "-", stdin=answer.stdout)
    real.kubectl("-n", BOOKS, "delete", "networkpolicy", "written")
    recommended = policies(real)

    def decides() -> bool:
        """Return whether the newest connection was allowed by recommended policies alone."""
        assert real.connects(reader, addresses(api)[0])
        seen = real.record(dest_ip=addresses(api)[0], dest_port=PORT, direction="ingress", disposition="allow")
        return {one["name"] for one in seen["policies"]} <= recommended

    until("the recommended policies decide", decides)
    for address in addresses(api):
        assert real.connects(reader, address)
        assert real.gets_no_answer(other, address)


def test_a_backtest_on_the_cluster_comes_true(real: Real, pods: dict[str, Pod]) -> None:
    """The proposal, in place of all others, lets in the other app and not the reader."""
    proposal = policy("proposed", "api", ingress=[from_app("other")])
    proposal["metadata"]["namespace"] = BOOKS
    old = sorted(policies(real))
    # Each connection is judged by the policies of its time: the one that was written by hand was in force for some.
    deleted = [word for name in (*old, "written") for word in ("--delete", f"NetworkPolicy/{BOOKS}/{name}")]
    answer = real.weir(
        "backtest", "-", "-n", BOOKS, "--since", "1h", "-o", "json", *deleted, stdin=json.dumps(proposal)
    )
    assert answer.returncode == 1, answer
    at_api = {
        (one["peer"].get("workload"), one["outcome"])
        for one in json.loads(answer.stdout)["findings"]
        if one["direction"] == "ingress"
    }
    assert at_api == {("Deployment/reader", "newly denied"), ("Deployment/other", "newly allowed")}
    apply(real, proposal)
    real.kubectl("-n", BOOKS, "delete", "networkpolicy", *old)
    for address in addresses(pods["api"]):
        real.closes(pods["reader"], address)
        real.opens(pods["other"], address)
