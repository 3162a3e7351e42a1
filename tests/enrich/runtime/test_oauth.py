"""OAuth's settings are checked together, and say what is missing without saying a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import SettingsError, load


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv("http_proxy", raising=False)
    (tmp_path / "secret").write_text("s3cr3t\n")
    (tmp_path / "id").write_text("kubeweir\n")
    (tmp_path / "ca").write_text("of the endpoint")
    return {
        "WEIR_KAFKA_PROTOCOL": "sasl_ssl",
        "WEIR_KAFKA_MECHANISM": "OAUTHBEARER",
        "WEIR_KAFKA_OAUTH_URL": "https://login.example.com/oauth2/token",
        "WEIR_KAFKA_OAUTH_CLIENT_ID_FILE": str(tmp_path / "id"),
        "WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE": str(tmp_path / "secret"),
        "WEIR_KAFKA_OAUTH_CA": str(tmp_path / "ca"),
    }


def test_they_become_those_of_librdkafka(env: dict[str, str]) -> None:
    more = {
        "WEIR_KAFKA_OAUTH_SCOPE": "https://ns.example/.default",
        "WEIR_KAFKA_OAUTH_EXTENSIONS": "a=lkc-1, b=x=y",
    }
    found = load(KafkaSettings, env | more).connection()
    assert {name: value for name, value in found.items() if name.startswith(("sasl.", "https."))} == {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://login.example.com/oauth2/token",
        "sasl.oauthbearer.client.id": "kubeweir",
        "sasl.oauthbearer.client.secret": "s3cr3t",
        "sasl.oauthbearer.scope": "https://ns.example/.default",
        "sasl.oauthbearer.extensions": "a=lkc-1,b=x=y",
        "https.ca.location": env["WEIR_KAFKA_OAUTH_CA"],
    }


def test_files_are_watched_and_the_authority_has_a_metric(env: dict[str, str]) -> None:
    settings = load(KafkaSettings, env)
    names = ("CLIENT_ID_FILE", "CLIENT_SECRET_FILE", "CA")
    assert settings.credential_files() == tuple(Path(env[f"WEIR_KAFKA_OAUTH_{name}"]) for name in names)
    assert settings.certificates() == {"kafka_oauth_ca": Path(env["WEIR_KAFKA_OAUTH_CA"])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"WEIR_KAFKA_OAUTH_URL": ""}, "needs WEIR_KAFKA_OAUTH_URL"),
        ({"WEIR_KAFKA_OAUTH_URL": "login.example.com/token"}, "must be a URL"),
        ({"WEIR_KAFKA_OAUTH_URL": "https://[s3cr3t/token"}, "must be a URL"),
        ({"WEIR_KAFKA_OAUTH_URL": "https://login.example.com:0/s3cr3t"}, "must be a URL"),
        ({"WEIR_KAFKA_OAUTH_URL": "https://login.example.com:s3cr3t/"}, "must be a URL"),
        ({"WEIR_KAFKA_OAUTH_URL": "https://login.example.com:65536/s3cr3t"}, "must be a URL"),
        ({"WEIR_KAFKA_OAUTH_URL": "https://u:p@login.example.com/"}, "must name no user"),
        ({"WEIR_KAFKA_OAUTH_URL": "http://login.example.com/"}, "unencrypted"),
        ({"WEIR_KAFKA_OAUTH_CLIENT_ID_FILE": ""}, "needs WEIR_KAFKA_OAUTH_CLIENT_ID"),
        ({"WEIR_KAFKA_OAUTH_CLIENT_ID_FILE": "", "WEIR_KAFKA_OAUTH_CLIENT_ID": "a:b"}, "no colon"),
        ({"WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE": ""}, "WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE"),
        ({"WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE": "/nowhere"}, "cannot be read"),
        ({"WEIR_KAFKA_OAUTH_SCOPE": "a&client_id=other"}, "WEIR_KAFKA_OAUTH_SCOPE"),
        ({"WEIR_KAFKA_OAUTH_EXTENSIONS": "logicalCluster"}, "must be name=value"),
        ({"WEIR_KAFKA_OAUTH_EXTENSIONS": "auth=x"}, "must be name=value"),
        ({"WEIR_KAFKA_OAUTH_CA": "/nowhere"}, "the file does not exist"),
        ({"WEIR_KAFKA_MECHANISM": "PLAIN"}, "WEIR_KAFKA_OAUTH_URL is for"),
        ({"WEIR_KAFKA_PROTOCOL": "ssl"}, "WEIR_KAFKA_OAUTH_URL is for"),
        ({"WEIR_KAFKA_EXTRA": "sasl.oauthbearer.method=default"}, "sasl.oauthbearer.method cannot be set"),
        ({"WEIR_KAFKA_EXTRA": "enable.sasl.oauthbearer.unsecure.jwt=true"}, "cannot be set"),
        ({"WEIR_KAFKA_EXTRA": "https.ca.location=probe"}, "https.ca.location cannot be set"),
    ],
)
def test_what_cannot_be_used_is_refused(env: dict[str, str], change: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        load(KafkaSettings, env | change).connection()
    assert "s3cr3t" not in str(refused.value)


def test_an_endpoint_on_this_machine_needs_no_tls_unless_a_proxy_would_see_the_secret(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(KafkaSettings, env | {"WEIR_KAFKA_OAUTH_URL": "http://127.0.0.1:8080/token"})
    monkeypatch.setenv("no_proxy", "")
    settings.connection()
    monkeypatch.setenv("http_proxy", "http://proxy.example.com:3128")
    with pytest.raises(SettingsError, match="to the proxy in http_proxy"):
        settings.connection()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    settings.connection()
