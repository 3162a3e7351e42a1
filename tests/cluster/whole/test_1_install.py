"""Tests of an installation by the manifests: the first policy is enforced, and its records have the right names."""

from __future__ import annotations

import pytest

from tests.cluster.whole.real import NAMESPACE, SYSTEM, Real, addresses, until
from tests.cluster.whole.story import Pod, all_pairs, assert_named, at_once

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]


def test_without_policy_all_connections_are_allowed(real: Real, web: list[Pod], clients: list[Pod]) -> None:
    assert all(at_once(real.connects, all_pairs(clients, web)))


def test_a_policy_allows_one_app_and_denies_the_others(
    real: Real, guarded: None, web: list[Pod], clients: list[Pod], stranger: Pod
) -> None:
    assert all(at_once(real.connects, all_pairs(clients, web)))
    assert all(at_once(real.gets_no_answer, all_pairs([stranger], web)))
    for address in addresses(web[0]):
        assert real.gets_no_answer(clients[0], address, protocol="udp")


def test_records_have_the_names_that_kubectl_has(
    real: Real, guarded: None, web: list[Pod], clients: list[Pod], stranger: Pod
) -> None:
    for source, app, disposition in ((clients[0], "client", "allow"), (stranger, "stranger", "deny")):
        for server in web:
            for src, dest in zip(addresses(source), addresses(server), strict=True):
                record = real.record(src_ip=src, dest_ip=dest, direction="ingress", disposition=disposition,
                                     protocol="tcp")  # fmt: skip
                assert_named(record, "src", source, app)
                assert_named(record, "dest", server, "web")
                assert record["node_name"] == server["spec"]["nodeName"]
                named = record["policies"] if disposition == "allow" else record["isolated_by"]
                assert [(p["namespace"], p["name"]) for p in named] == [(NAMESPACE, "web-from-client")]


def test_a_denial_is_an_event_on_the_pod(real: Real, guarded: None, web: list[Pod], stranger: Pod) -> None:
    """The optional component components/events has the route and the right to create Events."""
    expected = {(pod["metadata"]["uid"], "ConnectionDenied") for pod in web}

    def have_events() -> bool:
        events = real.get("events", "--field-selector=involvedObject.kind=Pod")["items"]
        return expected <= {(e["involvedObject"]["uid"], e["reason"]) for e in events
                          if f"{NAMESPACE}/{stranger['metadata']['name']}" in e["message"]}  # fmt: skip

    until("an Event on each pod that denied a connection", have_events)


def test_the_services_lead_to_the_metrics_of_every_role(real: Real, clients: list[Pod]) -> None:
    for name, port in (
        ("weir-probe", 9701),
        ("weir-streams", 9702),
        ("weir-streams", 9705),
        ("weir-streams", 9706),
        ("weir-streams", 9707),
    ):
        slices = real.get("endpointslices", "-l", f"kubernetes.io/service-name={name}", namespace=SYSTEM)["items"]
        found = [address for one in slices for entry in one["endpoints"] for address in entry["addresses"]]
        assert len(found) >= 2
        for address in found:
            assert real.connects(clients[0], address, port=port)
