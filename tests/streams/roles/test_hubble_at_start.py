"""What the role `hubble` refuses before it asks Kafka anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from enrich.runtime.process import Exit
from streams.main import PORTS, ROLES, command, default_roles
from streams.settings import Settings


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"WEIR_HUBBLE": "0.0.0.0:4245"}, "whoever can connect reads every flow"),
        ({"WEIR_HUBBLE": "4245"}, "must be host:port"),
        ({"WEIR_HUBBLE_CERTIFICATE": "/tls.crt"}, "must be set together"),
        ({"WEIR_HUBBLE_STREAMS": "0"}, "WEIR_HUBBLE_STREAMS"),
    ],
)
def test_an_open_address_and_half_of_the_certificates_are_refused(env: dict[str, str], text: str) -> None:
    env = {"WEIR_KAFKA": "127.0.0.1:1", "WEIR_METRICS": "127.0.0.1:0", **env}
    done = CliRunner().invoke(command, ["hubble", "--alone"], env=env)
    assert done.exit_code == Exit.USAGE, done.stderr
    assert text in done.stderr


def test_it_runs_if_it_has_an_address_and_its_metrics_leave_the_common_page_where_it_is() -> None:
    assert "hubble" not in default_roles(Settings())
    assert "hubble" in default_roles(Settings(hubble="127.0.0.1:4245"))
    ports = list(PORTS.values())
    assert len(ROLES) not in ports
    assert len(set(ports)) == len(ports)


def test_the_end_of_its_certificate_is_a_metric_too() -> None:
    settings = Settings(hubble_certificate=Path("/tls.crt"))
    assert settings.certificates() == {"hubble": Path("/tls.crt")}
