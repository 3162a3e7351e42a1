"""`weir-probe` as people call it: what it says of settings and machines that it cannot work with."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("weir-probe")


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run_by((), *arguments, **env)


def run_by(wrap: tuple[str, ...], /, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    done = subprocess.run(
        [*wrap, str(PROGRAM), *arguments], env=given | env, capture_output=True, text=True, check=False, timeout=240
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "namespace.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, uid: u1}\n")
    return folder


def test_help_lists_every_setting_with_its_default() -> None:
    done = run("--help")
    assert done.returncode == 0
    for setting in ("WEIR_KAFKA [127.0.0.1:9092]", "WEIR_SPOOL_BYTES [1073741824]", "WEIR_METRICS [127.0.0.1:9701]"):
        assert setting in done.stdout
    assert "Exit codes: 0 stopped" in done.stdout
    assert "detach" in done.stdout


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("WEIR_BATCH_VERDICTS", "0", "WEIR_BATCH_VERDICTS='0': must be a whole number from 1"),
        ("WEIR_BATCH_VERDICTS", "many", "WEIR_BATCH_VERDICTS='many': must be a whole number from 1"),
        ("WEIR_SPOOL_BYTES", "1000", "must be a whole number from 4194304"),
        ("WEIR_DENY_WINDOW", "nan", "must be a number from 0.1"),
        ("WEIR_HEARTBEAT", "inf", "must be a number from 0.1"),
        ("WEIR_ATTACH", "xdp", "WEIR_ATTACH='xdp': must be auto, tcx or clsact"),
        ("WEIR_RING_BYTES", "5000", "WEIR_RING_BYTES=5000: must be a power of two"),
        ("WEIR_LOG_LEVEL", "loud", "must be debug, info, warning or error"),
    ],
)
def test_a_bad_setting_is_named_with_what_it_takes(setting: str, value: str, says: str) -> None:
    done = run(**{setting: value})
    assert done.returncode == 2
    assert done.stderr.startswith("weir-probe: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_command_is_refused() -> None:
    done = run("enforce")
    assert done.returncode == 2
    assert "No such command 'enforce'" in done.stderr


# --- what only root can see


@pytest.mark.kernel
def test_it_wants_root() -> None:
    # A user namespace without a mapping: not root, and yet every file can be read wherever the checkout is.
    done = run_by(("unshare", "--user"))
    assert (done.returncode, "must run as root" in done.stderr) == (3, True), done.stderr


@pytest.mark.kernel
@pytest.mark.parametrize("arguments", [(), ("detach",)])
def test_it_wants_a_bpf_file_system(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, WEIR_PIN_DIR=str(tmp_path), WEIR_RUN_DIR=str(tmp_path))
    assert done.returncode == 3
    assert f"{tmp_path} is not in a BPF file system: mount -t bpf bpf /sys/fs/bpf" in done.stderr


@pytest.mark.kernel
def test_a_second_start_says_who_runs(tmp_path: Path) -> None:
    with (tmp_path / "probe.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        done = run(WEIR_PIN_DIR="/sys/fs/bpf/kubeweir-never", WEIR_RUN_DIR=str(tmp_path))
    assert done.returncode == 4
    assert "another instance is running, with process id 4711" in done.stderr
    assert not Path("/sys/fs/bpf/kubeweir-never").exists()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("manifests:/nowhere", "/nowhere is not a folder"),
        ("file:/tmp", "must be kubernetes, or manifests:FOLDER"),
        ("manifests:{bad}", r"bad\.yaml.*spec\.podSelector"),
    ],
)
def test_a_source_that_cannot_be_read_ends_the_start(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "bad.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: a, name: b}\n"
        "spec: {podSelector: 7}\n"
    )
    done = run(
        WEIR_SOURCE=source.format(bad=tmp_path), WEIR_PIN_DIR="/sys/fs/bpf/kubeweir-never", WEIR_RUN_DIR=str(tmp_path)
    )
    assert done.returncode == 2, done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert not Path("/sys/fs/bpf/kubeweir-never").exists()


@pytest.mark.kernel
def test_a_node_namespace_that_is_not_there_is_named(tmp_path: Path, manifests: Path) -> None:
    done = run(
        WEIR_SOURCE=f"manifests:{manifests}", WEIR_PIN_DIR="/sys/fs/bpf/kubeweir-never", WEIR_RUN_DIR=str(tmp_path),
        WEIR_NETNS="/run/netns/nowhere",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "/run/netns/nowhere" in done.stderr
