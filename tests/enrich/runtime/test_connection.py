"""Settings of the connection: what may be passed on to librdkafka, and where user and password come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import SettingsError, load


def _connection(**env: str) -> dict[str, str]:
    return load(KafkaSettings, env).connection()


def test_further_settings_are_passed_on() -> None:
    found = _connection(WEIR_KAFKA_EXTRA="socket.keepalive.enable=true, statistics.interval.ms=0", WEIR_KAFKA_RACK="a")
    assert found["socket.keepalive.enable"] == "true"
    assert found["statistics.interval.ms"] == "0"
    assert found["client.id"] == "kubeweir"
    assert found["client.rack"] == "a"


@pytest.mark.parametrize(
    "key",
    ["acks", "enable.idempotence", "group.id", "group.instance.id", "transactional.id", "delivery.timeout.ms",
     "message.timeout.ms", "retries", "max.in.flight.requests.per.connection", "enable.auto.commit", "isolation.level",
     "auto.offset.reset", "partitioner", "bootstrap.servers", "sasl.password", "ssl.ca.location",
     "plugin.library.paths", "metadata.recovery.strategy", "enable.ssl.certificate.verification", "client.id"],
)  # fmt: skip
def test_settings_on_which_delivery_depends_are_refused(key: str) -> None:
    with pytest.raises(SettingsError, match=f"WEIR_KAFKA_EXTRA: {key} cannot be set"):
        _connection(WEIR_KAFKA_EXTRA=f"{key}=1")


def test_what_is_no_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="must be key=value"):
        _connection(WEIR_KAFKA_EXTRA="socket.keepalive.enable")


def test_user_and_password_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "user").write_text("weir\n")
    (tmp_path / "password").write_text("secret with = and space \n")
    env = {
        "WEIR_KAFKA_PROTOCOL": "sasl_ssl",
        "WEIR_KAFKA_USERNAME_FILE": str(tmp_path / "user"),
        "WEIR_KAFKA_PASSWORD_FILE": str(tmp_path / "password"),
    }
    assert _connection(**env)["sasl.username"] == "weir"
    assert _connection(**env)["sasl.password"] == "secret with = and space "
    (tmp_path / "password").write_text("")
    with pytest.raises(SettingsError, match="the file is empty"):
        _connection(**env)
