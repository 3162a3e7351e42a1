"""Settings that librdkafka refuses: a message that names them, before anything connects."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import SettingsError, load
from streams.kafka.connection import checked


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("foo.bar=1", 'No such configuration property: "foo.bar"'),
        ("socket.keepalive.enable=maybe", 'Expected bool value for "socket.keepalive.enable"'),
        ("reconnect.backoff.ms=9999999", 'property "reconnect.backoff.ms" value 9999999 is outside allowed range'),
    ],
)
def test_a_setting_that_librdkafka_refuses_is_named(extra: str, message: str) -> None:
    settings = load(KafkaSettings, {"WEIR_KAFKA_EXTRA": extra})
    with pytest.raises(SettingsError, match=message):
        checked(settings.connection())


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    settings = load(KafkaSettings, {"WEIR_KAFKA_PROTOCOL": "ssl", "WEIR_KAFKA_CA": str(tmp_path / "ca.crt")})
    with pytest.raises(SettingsError, match=r"(?s)ssl\.ca\.location failed.*WEIR_KAFKA_CA"):
        checked(settings.connection())


def test_settings_of_consumers_and_producers_are_taken() -> None:
    connection = load(
        KafkaSettings, {"WEIR_KAFKA_EXTRA": "fetch.min.bytes=5,socket.keepalive.enable=true"}
    ).connection()
    assert checked(connection) == connection
