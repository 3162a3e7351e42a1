"""The probe's check of the settings that it passes on to librdkafka."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import SettingsError, load
from probe.export.raw_topic import check_connection, text_of


def test_a_setting_that_librdkafka_does_not_know_is_named() -> None:
    settings = load(KafkaSettings, {"WEIR_KAFKA_EXTRA": "foo.bar=1"})
    with pytest.raises(SettingsError, match=r'WEIR_KAFKA_EXTRA: librdkafka refuses it: .*"foo\.bar"'):
        check_connection(settings.connection())


def test_a_bad_certificate_does_not_keep_the_probe_from_enforcing(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    env = {
        "WEIR_KAFKA_PROTOCOL": "sasl_ssl",
        "WEIR_KAFKA_USERNAME": "weir",
        "WEIR_KAFKA_PASSWORD": "secret",
        "WEIR_KAFKA_CA": str(tmp_path / "ca.crt"),
    }
    check_connection(load(KafkaSettings, env).connection())


def test_the_answer_of_a_token_endpoint_is_not_told() -> None:
    text = 'Failed to acquire SASL OAUTHBEARER token: {"error_description":"s3cr3t is wrong"}'
    assert text_of(KafkaError(KafkaError._AUTHENTICATION, text)) == "Failed to acquire SASL OAUTHBEARER token"
    assert text_of(KafkaError(KafkaError._TRANSPORT, "refused")) == "refused"
