"""The settings of the role web: it never serves everything to everybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrich.runtime.settings import SettingsError, load
from streams.main import _PAGE, PORTS, ROLES
from streams.settings import Settings
from streams.web.role import check_web


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"WEIR_WEB": "0.0.0.0:9700"}, "loopback address only"),
        ({"WEIR_WEB": "[::]:9700"}, "loopback address only"),
        ({"WEIR_WEB": ":9700"}, "host:port"),
        ({"WEIR_WEB": "127.0.0.1"}, "host:port"),
        ({"WEIR_WEB": "127.0.0.1:70000"}, "host:port"),
        ({"WEIR_WEB": "weir.example.com:9700"}, "loopback address only"),
        ({"WEIR_WEB": "127.0.0.1.example.com:9700"}, "loopback address only"),
        ({"WEIR_WEB": "10.0.0.7:9700", "WEIR_WEB_AUTH": "kubernetes"}, "plain text"),
        ({"WEIR_WEB_CERTIFICATE": "/c.pem"}, "together"),
        ({"WEIR_WEB_HOSTS": "https://weir"}, "WEIR_WEB_HOSTS"),
    ],
)
def test_what_would_be_open_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        check_web(load(Settings, given))


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, ("127.0.0.1", 9700)),
        ({"WEIR_WEB": "[::1]:0"}, ("::1", 0)),
        ({"WEIR_WEB": "localhost:1"}, ("localhost", 1)),
        (
            {
                "WEIR_WEB": "0.0.0.0:9700",
                "WEIR_WEB_AUTH": "kubernetes",
                "WEIR_WEB_CERTIFICATE": "/c",
                "WEIR_WEB_KEY": "/k",
            },
            ("0.0.0.0", 9700),  # noqa: S104 - not bound here
        ),
    ],
)
def test_what_is_served(given: dict[str, str], address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.web.role.LIBRARIES", Path(__file__).parent)
    assert check_web(load(Settings, given)) == address


def test_the_ports_of_the_roles_do_not_meet() -> None:
    assert [PORTS[role] for role in ROLES] == list(range(len(ROLES)))
    assert PORTS["web"] == _PAGE + 1
