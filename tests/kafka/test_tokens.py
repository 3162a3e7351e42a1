"""OAUTHBEARER: every client of ours renews its tokens, and each refusal has a message of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AclOperation, ResourceType

from enrich.diagnosis.rights import Needs
from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from enrich.wire.topics import topics
from probe.export.publisher import Publisher
from probe.export.spool import Spool
from tests.kafka.batches import make_batch, write_manifests
from tests.kafka.guarded import GuardedBroker
from tests.kafka.site import PATIENCE_S, Site, ids_of
from tests.kafka.test_causes import found
from tests.probe.export.spooling import append
from tests.waiting import until

pytestmark = pytest.mark.kafka

LIFETIME_S = 4


def _allowed(guarded: GuardedBroker, prefix: str) -> dict[str, str]:
    """Return the settings of a client that may do everything with a prefix, with tokens of a short life."""
    user, env = guarded.client(lifetime_s=LIFETIME_S, scope="kafka.read kafka.write")
    for kind in (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID):
        guarded.allow(user, kind, prefix, AclOperation.ALL)
    return env


@pytest.fixture
def site(guarded: GuardedBroker, tmp_path: Path) -> Iterator[Site]:
    write_manifests(tmp_path / "manifests")
    prefix = f"t{secrets.token_hex(4)}"
    env = _allowed(guarded, prefix) | {"WEIR_FILE_PATH": str(tmp_path / "flows.log")}
    made = Site(guarded.address, prefix, tmp_path, settings=env)
    yield made
    made.end()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


@pytest.mark.timeout(900)
def test_records_go_on_over_several_tokens(guarded: GuardedBroker, site: Site, spool: Spool, tmp_path: Path) -> None:
    output, given = tmp_path / "flows.log", 0
    probe_env = _allowed(guarded, site.prefix)

    def give(batches: int) -> None:
        nonlocal given
        for _ in range(batches):
            append(spool, make_batch(given * 10, 10))
            given += 1

    def all_are_there() -> bool:
        return ids_of(output) == {f"r1-{number}" for number in range(given * 10)}

    publisher = Publisher(spool, topics(site.prefix, 4).raw, load(KafkaSettings, probe_env).connection())
    publisher.start()
    try:
        enrich, sink = site.start("enrich", "--alone"), site.start("file", "--alone")
        give(10)
        until(all_are_there)
        client = guarded.identity.clients[site.settings["WEIR_KAFKA_OAUTH_CLIENT_ID"]]
        probes = guarded.identity.clients[probe_env["WEIR_KAFKA_OAUTH_CLIENT_ID"]]

        def faust() -> int:
            return sum(agent.startswith("Python") for agent in client.agents)

        for _ in range(2):
            # A broker ends a connection when its token does: Faust's client connects again, with a new one.
            before, before_probe = faust(), len(probes.agents)
            until(lambda before=before: faust() > before)  # type: ignore[misc]
            until(lambda before=before_probe: len(probes.agents) > before)  # type: ignore[misc]
            give(10)
            until(all_are_there)
        until(lambda: spool.unacked_batches == 0)
        assert len(client.agents) - faust() >= 6
        # A call may fail at the moment at which a token ends.
        until(lambda: enrich.get("/readyz")[0] == 200)
        assert enrich.process.poll() is None
        secret = client.secret
        for service in (enrich, sink):
            assert secret not in service.log.read_text()
            assert [line["event"] for line in service.lines()].count("starting") == 1
            assert service.stop() == 0
        assert publisher.stop(PATIENCE_S)
    finally:
        publisher.stop(0)


def test_each_reason_for_which_there_is_no_token_has_a_message_of_its_own(
    guarded: GuardedBroker, tmp_path: Path
) -> None:
    name, good = guarded.client(scope="kafka")
    _, foreign = guarded.client(audience="others")
    wrong = tmp_path / "secret"
    wrong.write_text("not the one")
    address = guarded.identity.url.split("/")[2]
    port = address.split(":")[1]
    cases = [
        (good, ""),
        (good | {"WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE": str(wrong)}, f"refuses the client '{name}' (401: invalid_cl"),
        (good | {"WEIR_KAFKA_OAUTH_SCOPE": "other"}, "(400: invalid_scope): correct WEIR_KAFKA_OAUTH_SCOPE"),
        (good | {"WEIR_KAFKA_OAUTH_CA": str(guarded.ca)}, "is not trusted by WEIR_KAFKA_OAUTH_CA="),
        (good | {"WEIR_KAFKA_OAUTH_URL": f"https://127.0.0.2:{port}/token"}, "takes no connection"),
        (good | {"WEIR_KAFKA_OAUTH_URL": f"https://localhost:{port}/token"}, "is for another name"),
        (good | {"WEIR_KAFKA_OAUTH_URL": f"https://idp.invalid:{port}/token"}, "cannot be resolved"),
        (good | {"WEIR_KAFKA_OAUTH_URL": guarded.identity.url + "s"}, "gives no token (404)"),
        (good | {"WEIR_KAFKA_OAUTH_URL": f"http://{address}/token"}, f"the token endpoint http://{address} "),
        (foreign, "refuses the token of the client"),
    ]  # fmt: skip
    for env, said in cases:
        answer = found(env)
        assert said in answer, env
        assert bool(answer) == bool(said), env
        assert "s3cr3t" not in answer
        assert "not the one" not in answer


def test_a_service_without_a_token_says_why_and_never_the_secret(guarded: GuardedBroker, site: Site) -> None:
    client = guarded.identity.clients[site.settings["WEIR_KAFKA_OAUTH_CLIENT_ID"]]
    given = client.secret
    client.secret = "another"  # noqa: S105 - a test's; the endpoint quotes the one that it is given
    service = site.start("enrich", "--alone")
    until(lambda: "401: invalid_client" in service.get("/readyz")[1])
    status, text = service.get("/readyz")
    assert (status, "s3cr3t" in text) == (503, False)
    client.secret = given
    until(lambda: service.get("/readyz")[0] == 200)
    assert "s3cr3t" not in service.log.read_text()


def test_a_missing_right_of_a_client_is_named(guarded: GuardedBroker) -> None:
    _, env = guarded.client()
    said = found(env, Needs(reads=frozenset({"t.in"})))
    assert "the token's user has no right READ on the topic t.in" in said
