"""No message about a mistake in an address of a file holds its user, password or query."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from streams.alerts.read import read as read_alerts
from streams.cli.main import command
from streams.config.hot_reload import HotReloadedFile
from streams.routes.read import read as read_routes

ROUTES = "version: 1\nroutes:\n  - name: one\n    outputs: [{otlp: OUTPUT}]\n"
ALERTS = "version: 1\noutputs:\n  - {name: one, KIND: OUTPUT}\n"
USER = "http://user:s3cr3t@am:9093"


@pytest.mark.parametrize(
    ("content", "output", "message"),
    [
        (ROUTES, f"{{endpoint: '{USER}/otlp?t=s3cr3t'}}", "is it http://am:9093/otlp/v1/logs?"),
        (ROUTES, f"{{endpoint: '{USER}#s3cr3t'}}", "is it http://am:9093/v1/logs?"),
        (ROUTES, f"{{protocol: grpc, endpoint: '{USER}?t=s3cr3t'}}", "is it http://am:9093?"),
        (ROUTES, f"'{USER}?t=s3cr3t'", "must be a mapping of fields, is an address"),
        (ROUTES, f"{{endpoint: ['{USER}']}}", "is a list"),
        (ROUTES, "{endpoint: 'user:s3cr3t@am:9093'}", "must be a URL that begins with http:// or https://"),
        (ROUTES, "{endpoint: 'http://user:s3cr3t@[am'}", "must be a URL that begins with http:// or https://"),
        (ALERTS, f"{{url: '{USER}/prefix/api/v2?t=s3cr3t'}}", "without /api/v...: http://am:9093/prefix"),
        (ALERTS, f"{{url: '{USER}?t=s3cr3t'}}", "without ? and #: http://am:9093"),
        (ALERTS, f"{{url: '{USER}?t=s3cr3t/api/v2'}}", "without /api/v...: http://am:9093"),
        (ALERTS, "{url: 'http://user:s3cr3t@[am/api/v2'}", "must be a URL that begins with http:// or https://"),
        (ALERTS, "{url: 'ftp://user:s3cr3t@am'}", "must be a URL that begins with http:// or https://"),
        (ALERTS.replace("KIND", "webhook"), "{url: 'ftp://am?t=s3cr3t'}", "must be a URL that begins with http://"),
        (ALERTS.replace("KIND", "webhook"), "{url: 'http://am/s3cr3t x'}", "must be a URL that begins with http://"),
    ],
)
def test_a_mistake_in_an_address_does_not_show_its_secrets(
    tmp_path: Path, content: str, output: str, message: str
) -> None:
    of, read = ("routes", read_routes) if content == ROUTES else ("alerts", read_alerts)
    path = tmp_path / "file.yaml"
    path.write_text(content.replace("KIND", "alertmanager").replace("OUTPUT", output))
    checked = CliRunner().invoke(command, [of, "check", str(path)])
    assert checked.exit_code == 2
    with structlog.testing.capture_logs() as logs:
        problem = _problem(path, read)
    assert logs
    for text in (checked.output, problem, str(logs)):
        assert message in text
        assert "s3cr3t" not in text
        assert "user" not in text


def _problem(path: Path, read: Callable[[bytes, str], object]) -> str:
    """Return what /readyz says of a file that is read while a role runs, and log it."""
    file: HotReloadedFile[object, object] = HotReloadedFile("x", "WEIR_X", path, read, lambda found: found)
    file.check()
    return file.problem() or ""
