"""Encrypted and authenticated connections: every client of ours against a Kafka that accepts no others."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import SettingsError, load
from enrich.wire.topics import topics
from probe.export.publisher import Publisher
from probe.export.spool import Spool
from tests.kafka.batches import make_batch, write_manifests
from tests.kafka.broker import run_broker
from tests.kafka.site import PATIENCE_S, Site, until
from tests.probe.export.spooling import append


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings that a SASL_SSL broker requires."""
    folder = tmp_path_factory.mktemp("secure")
    env = {
        "WEIR_KAFKA_PROTOCOL": "sasl_ssl",
        "WEIR_KAFKA_MECHANISM": "SCRAM-SHA-512",
        "WEIR_KAFKA_USERNAME": "weir",
        "WEIR_KAFKA_PASSWORD": "weir",
        "WEIR_KAFKA_CA": str(folder / "broker/ca.crt"),
    }
    client = {
        "security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "sasl.username": "weir", "sasl.password": "weir",
        "ssl.ca.location": env["WEIR_KAFKA_CA"],
    }  # fmt: skip
    for address in run_broker(folder, "--secure", client=client):
        yield {**env, "WEIR_KAFKA": address}


@pytest.fixture
def site(secure: dict[str, str], tmp_path: Path) -> Iterator[Site]:
    write_manifests(tmp_path / "manifests")
    made = Site(secure["WEIR_KAFKA"], f"t{secrets.token_hex(4)}", tmp_path, load(KafkaSettings, secure).connection())
    yield made
    made.end()


@pytest.mark.kafka
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_batches_become_records_by_every_client(
    site: Site, secure: dict[str, str], mechanism: str, tmp_path: Path
) -> None:
    env = {**secure, "WEIR_KAFKA_MECHANISM": mechanism}
    spool = Spool(tmp_path / "spool")
    connection = load(KafkaSettings, env).connection()
    publisher = Publisher(spool, topics(site.prefix, 4).raw, connection)
    publisher.start()
    append(spool, make_batch(0, 10))
    assert publisher.stop(PATIENCE_S), publisher.problem
    spool.close()
    enrich = site.start_enrich(**env)
    assert len(site.read_flows(10)) == 10
    until(lambda: enrich.get("/readyz")[0] == 200 or None, "ready")
    sink = site.start("stdout", "--alone", **env)
    until(lambda: sink.log.read_text().count('"disposition"') == 10 or None, "ten lines of the sink")
    observe = [f"{sys.prefix}/bin/weir", "observe", "--last", "20", "--output", "json"]
    shown = subprocess.run(
        observe, env=site.env(**env), capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert shown.stdout.count('"disposition"') == 10, shown.stderr


@pytest.mark.kafka
def test_a_wrong_password_is_reported_and_nothing_is_lost(site: Site, secure: dict[str, str], tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    wrong = load(KafkaSettings, {**secure, "WEIR_KAFKA_PASSWORD": "wrong"}).connection()
    publisher = Publisher(spool, topics(site.prefix, 4).raw, wrong)
    publisher.start()
    append(spool, make_batch(0, 10))
    until(lambda: "cannot be reached" in (publisher.problem or "") or None, "a problem in words")
    assert not publisher.stop(0)
    assert spool.unacked_batches == 1
    spool.close()
    service = site.start("enrich", "--alone", **{**secure, "WEIR_KAFKA_PASSWORD": "wrong"})
    service.wait_for("Kafka cannot be reached; retrying")
    until(
        lambda: "the password of the user 'weir' is wrong" in service.get("/readyz")[1] or None,
        "the cause on /readyz",
    )
    assert service.get("/readyz")[0] == 503


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"WEIR_KAFKA_PROTOCOL": "tls"}, "must be plaintext, ssl"),
        ({"WEIR_KAFKA_PROTOCOL": "sasl_ssl"}, "needs WEIR_KAFKA_USERNAME"),
        ({"WEIR_KAFKA_PROTOCOL": "ssl", "WEIR_KAFKA_CA": "/nowhere/ca"}, "the file does not exist"),
        ({"WEIR_KAFKA_PROTOCOL": "ssl", "WEIR_KAFKA_KEY": os.devnull}, "the file does not exist"),
    ],
)
def test_impossible_settings_are_refused_with_a_reason(env: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(KafkaSettings, env).connection()
