"""A real Alertmanager for the tests, which can be started, killed and queried."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.attachments import attach
from tests.kafka.site import until

PROGRAM = Path(__file__).parents[2] / "deploy" / "local" / "alertmanager"


class Alertmanager:
    """An Alertmanager process with one port and one folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._folder, self._port = folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        path = self._folder / "alertmanager.log"
        with path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), "run", "--dir", str(self._folder / "am"), "--port", str(self._port)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        attach("Alertmanager", self._process, path)
        until(self._answers, "Alertmanager")

    def kill(self) -> None:
        """Send SIGKILL if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """Return the active alerts with these labels."""
        filters = [("filter", f'{name}="{value}"') for name, value in labels.items()]
        query = urllib.parse.urlencode([("active", "true"), *filters])
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts?{query}", timeout=120) as answer:  # noqa: S310 - loopback
            found: list[dict[str, Any]] = json.loads(answer.read())
        return found

    def metric(self, name: str) -> float:
        """Return the text of one of its own counters."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=120) as answer:  # noqa: S310 - loopback
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def _answers(self) -> bool | None:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "alertmanager.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=30):  # noqa: S310 - loopback
                return True
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        return None
