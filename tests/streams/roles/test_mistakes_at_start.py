"""Mistakes in settings end a role at once with exit code 2, before Kafka and the API server are reached."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from enrich.runtime.process import Exit, StopServiceError
from streams.kafka.lag import LagMonitor
from streams.roles.alerts import run_alerts
from streams.roles.enrich import run_enrich
from streams.roles.sinks import run_routes
from streams.settings import Settings

Run = Callable[[Settings, threading.Event], int]


def stopped(run: Run, folder: Path, **settings: object) -> str:
    """Run a role, and return why it stops."""
    given = {"kafka": "127.0.0.1:1", "source": f"manifests:{folder}", "metrics": "127.0.0.1:0", **settings}
    with pytest.raises(StopServiceError) as error:
        run(Settings(**given), threading.Event())  # type: ignore[arg-type]
    assert error.value.code == Exit.USAGE
    return str(error.value)


def test_a_routes_file_that_is_missing_or_wrong(tmp_path: Path) -> None:
    missing, wrong = tmp_path / "missing.yaml", tmp_path / "wrong.yaml"
    wrong.write_text("version: 1\nroute: []\n")
    assert stopped(run_enrich, tmp_path, routes=str(missing)) == f"WEIR_ROUTES='{missing}': No such file or directory"
    assert "there is no such field; did you mean routes?" in stopped(run_enrich, tmp_path, routes=str(wrong))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://am:9093/api/v2", "must be the base URL, without /api/v..."),
        ("http://am:9093/prefix/api/v2/alerts/", "must be the base URL, without /api/v..."),
        ("http://am:9093?secret=x", "must be the base URL, without ? and #"),
        ("am:9093", "must be a URL that begins with http:// or https://"),
        ("ftp://am", "must be a URL that begins with http:// or https://"),
        ("http://", "must be a URL that begins with http:// or https:// and names a host"),
        ("http://[am", "must be a URL"),
        ("http://am:99999", "must be a URL"),
    ],
)
def test_an_address_that_is_not_alertmanagers(tmp_path: Path, url: str, why: str) -> None:
    text = stopped(run_alerts, tmp_path, alertmanager=("http://good:9093", url))
    assert text.startswith(f"WEIR_ALERTMANAGER: {why}")
    assert "secret" not in text, "it may be a password"


OUTPUTS = [
    ({"url_env": "HOOK_URL"}, "the environment variable HOOK_URL does not hold a URL that begins with http"),
    ({"url_file": "/no/url"}, "url_file: /no/url cannot be read"),
    ({"url": "http://hook", "headers": {"Authorization": "HOOK_TOKEN"}}, "HOOK_TOKEN is not in the environment"),
    ({"url": "http://hook", "header_files": {"Authorization": "/no/token"}}, "/no/token cannot be read"),
    ({"url": "https://hook", "ca": "/no/ca.crt"}, "ca: /no/ca.crt does not exist"),
    ({"url": "https://hook", "certificate": "/no/tls.crt", "key": "/no/tls.key"}, "/no/tls.crt does not exist"),
]
"""Outputs that name what there is not, and what is said about it."""


@pytest.mark.parametrize(("output", "why"), OUTPUTS)
@pytest.mark.parametrize("kind", ["webhook", "alertmanager"])
def test_an_output_of_alerts_that_names_what_there_is_not(
    tmp_path: Path, kind: str, output: dict[str, object], why: str
) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text(json.dumps({"version": 1, "outputs": [{"name": "hook", kind: output}]}))
    assert why in stopped(run_alerts, tmp_path, alerts=str(file))


@pytest.mark.parametrize(("output", "why"), OUTPUTS)
def test_an_output_of_routes_that_names_what_there_is_not(tmp_path: Path, output: dict[str, object], why: str) -> None:
    file = tmp_path / "routes.yaml"
    otlp = {name.replace("url", "endpoint"): value for name, value in output.items()}
    if "endpoint" in otlp:
        otlp["endpoint"] = f"{otlp['endpoint']}/v1/logs"
    file.write_text(json.dumps({"version": 1, "routes": [{"name": "all", "outputs": [{"otlp": otlp}]}]}))
    assert why.replace("url_", "endpoint_") in stopped(run_routes, tmp_path, routes=str(file))


def test_a_file_of_a_route_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text("version: 1\nroutes: [{name: all, outputs: [{file: {path: /proc/no/such.log}}]}]\n")
    assert "'/proc/no/such.log' cannot be written" in stopped(run_routes, tmp_path, routes=str(file))


def test_a_stall_does_not_replace_the_reason_for_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stalled(_monitor: LagMonitor) -> None:
        raise StopServiceError("no progress", Exit.UNEXPECTED)

    monkeypatch.setattr(LagMonitor, "check", stalled)
    assert "WEIR_ALERTMANAGER" in stopped(run_alerts, tmp_path, alertmanager=("am:9093",))


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:", "127.0.0.1:\N{SUPERSCRIPT TWO}", "9702x"])
@pytest.mark.parametrize("run", [run_enrich, run_alerts])
def test_a_port_that_there_is_not(tmp_path: Path, run: Run, address: str) -> None:
    text = stopped(run, tmp_path, metrics=address)
    assert text == f"WEIR_METRICS={address!r}: must be host:port, with a port up to 65535"
