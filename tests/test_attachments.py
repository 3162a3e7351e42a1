"""Tests of what the report of a failed test shows of its services, with a real pytest run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import subprocess, sys
import pytest
from tests.attachments import attach, remember_if_failing
from tests.waiting import until

SERVICE = '''
import json, signal
from prometheus_client import CollectorRegistry
from enrich.runtime.health import HealthServer
for role in ("enrich", "file"):
    server = HealthServer("127.0.0.1:0", CollectorRegistry(), {role: lambda: "cannot reach Kafka"})
    print(json.dumps({"event": "starting", "role": role, "metrics_port": server.port}), flush=True)
print("last words")
print('{"event": "starting", "metrics_port": 1', end="", flush=True)
signal.pause()
'''

@pytest.fixture
def service(tmp_path):
    log = tmp_path / "service.log"
    with log.open("ab") as file:
        earlier = subprocess.Popen(["true"])
        earlier.wait()
        attach("weir-streams enrich file", earlier, log)
        process = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=file, stderr=file)
    attach("weir-streams enrich file", process, log)
    until(lambda: "last words" in log.read_text())
    yield process
    process.kill()
    process.wait()

def test_fails(service):
    assert not "while it runs"

def test_kills(service):
    try:
        assert not "when it has ended"
    finally:
        remember_if_failing()
        service.kill()
        service.wait()

def test_has_none():
    assert not "without a service"
"""


def test_a_failure_shows_the_health_and_the_log_of_its_own_services(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "test_made.py").write_text(TESTS)
    root = request.config.rootpath
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(root / "pyproject.toml")]
    command += ["--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    running, ended, without = done.stdout.partition("FAILURES")[2].split("____ test_")[1:]
    for text in (running, ended):
        assert text.count("---- weir-streams enrich file ----") == 1, done.stdout + done.stderr
        assert "\nlast words\n" in text
        assert "\n/readyz of enrich: 503 enrich: cannot reach Kafka\n/readyz of file: 503 file: cannot" in text
    assert " is running\n" in running
    assert " has ended with exit code -9\n" in ended
    assert "weir-streams" not in without
