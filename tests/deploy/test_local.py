"""Tests of the scripts in deploy/local: their messages, and that they change nothing that they have not made."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests import waiting

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "deploy/local"


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=400)


def test_a_second_setup_changes_nothing() -> None:
    before = {path: path.stat().st_mtime_ns for path in (ROOT / ".venv").iterdir()}
    done = run(LOCAL / "setup")
    assert done.returncode == 0, done.stderr
    assert "setup: ready" in done.stdout
    assert "installing" not in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (ROOT / ".venv").iterdir()} == before


def test_setup_refuses_an_environment_that_it_has_not_made(tmp_path: Path) -> None:
    (tmp_path / "deploy/local").mkdir(parents=True)
    for name in ("setup", "kafka-pom.xml", "connect-pom.xml", "elasticsearch-pom.xml"):
        shutil.copy(LOCAL / name, tmp_path / "deploy/local" / name)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/mine").touch()
    done = run(tmp_path / "deploy/local/setup")
    assert done.returncode == 3
    assert ".venv was not made by setup" in done.stderr
    assert [path.name for path in (tmp_path / ".venv").iterdir()] == ["mine"]


def test_setup_refuses_to_run_without_root() -> None:
    # In a user namespace without a mapping, the process is not root and can still read the checkout anywhere.
    done = run("unshare", "--user", LOCAL / "setup")
    assert done.returncode == 3
    assert "must run as root" in done.stderr


_SILENT_GO = """#!/bin/sh
case $1 in
  env) echo go1.24.0 ;;
  *) echo "go: downloading k8s.io/kubernetes" >&2; echo $$ >>"$GO_STARTED"; exec sleep 1000 ;;
esac
"""
"""A module proxy that does not answer: Go says once what it downloads, and waits."""


def test_a_build_that_says_nothing_any_more_is_ended(tmp_path: Path) -> None:
    """All of it is ended, nothing is left in the cache, and the message says what was waited for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/go").write_text(_SILENT_GO)
    (tmp_path / "bin/go").chmod(0o755)
    done = run(
        "env", f"PATH={tmp_path / 'bin'}:{os.environ['PATH']}", f"GO_STARTED={tmp_path / 'started'}",
        f"KUBEWEIR_CACHE={tmp_path / 'cache'}", "KUBEWEIR_BUILD_SILENCE=1", LOCAL / "binaries", "apiserver",
    )  # fmt: skip
    assert done.returncode == 1
    assert "building etcd 3.7.3: ended, because it had printed nothing for 1 s" in done.stderr
    assert "go: downloading k8s.io/kubernetes" in done.stderr
    (started,) = (tmp_path / "started").read_text().split()
    waiting.until(lambda: not _command_of(started))
    assert not list((tmp_path / "cache").glob("build.*"))


def _command_of(pid: str) -> bytes:
    """Return the command line of a process, empty if it has ended."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.kafka
def test_kafka_starts_serves_clients_and_stops(tmp_path: Path) -> None:
    started = run(LOCAL / "kafka", "start", "--dir", tmp_path / "k")
    assert started.returncode == 0, started.stderr
    address = started.stdout.strip()
    try:
        assert address.startswith("127.0.0.1:")
        listed = run("kcat", "-L", "-b", address)
        assert listed.returncode == 0, listed.stderr
        # The broker does not create a topic because a client names it.
        unknown = run("kcat", "-C", "-e", "-b", address, "-t", "never-created")
        assert "Unknown topic" in unknown.stderr, unknown
        again = run(LOCAL / "kafka", "start", "--dir", tmp_path / "k")
        assert (again.returncode, "already" in again.stderr) == (1, True)
        port = address.rpartition(":")[2]
        other = run(LOCAL / "kafka", "start", "--dir", tmp_path / "other", "--port", port)
        assert (other.returncode, "is in use" in other.stderr) == (1, True)
    finally:
        assert run(LOCAL / "kafka", "stop", "--dir", tmp_path / "k").returncode == 0
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", int(port))) != 0
    assert run(LOCAL / "kafka", "stop", "--dir", tmp_path / "k").returncode == 0


def test_make_lists_all_of_its_targets() -> None:
    listed = run("make", "--no-print-directory").stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert {line.split()[1] for line in listed.splitlines()} == set(phony.group(1).split())


def test_a_fresh_clone_begins_with_what_mypy_has_kept_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEWEIR_CACHE", str(tmp_path))

    def check(clone: str, code: int) -> str:
        """Check the types in a clone by a mypy that prints what it had kept, and keeps the name of the clone."""
        folder = tmp_path / clone
        (folder / "deploy/local").mkdir(parents=True, exist_ok=True)
        (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(LOCAL / "mypy", folder / "deploy/local")
        (folder / ".venv/bin/mypy").write_text(
            "#!/bin/sh\nmkdir -p .mypy_cache\ncat .mypy_cache/kept 2>/dev/null\n"
            f"echo $1 {clone} >.mypy_cache/kept\nexit {code}\n"
        )
        (folder / ".venv/bin/mypy").chmod(0o755)
        done = run(folder / "deploy/local/mypy", "by")
        assert (done.returncode, done.stderr) == (code, "")
        assert {path.name for path in folder.iterdir()} == {"deploy", ".venv", ".mypy_cache"}
        return done.stdout

    assert check("wrong", 1) == ""
    assert check("first", 0) == "", "what a check with complaints has kept is not given on"
    assert check("second", 0) == "by first\n"
    assert check("first", 0) == "by first\n", "a clone goes on with its own"
    assert check("third", 0) == "by first\n"
    (tmp_path / "mypy.tar").write_bytes(b"what is left of a full disk")
    assert run(tmp_path / "third/deploy/local/mypy", "by").stdout == "by third\n"
