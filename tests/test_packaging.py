"""Tests of the distribution: four packages with C sources and schemas, console scripts, a lock file without hosts."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_contains_the_packages_c_sources_and_schemas(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name and ".data/" not in name}
    assert tops == {"probe", "streams", "enrich", "bpf"}
    for required in (
        "bpf/policy.c",
        *(f"bpf/{part.name}" for part in (ROOT / "bpf").glob("*.h")),
        "bpf/headers/include/linux/kconfig.h",
        "probe/cni/weir_cni.c",
        *(f"enrich/schemas/{name}.schema.json" for name in ("batch", "endpoint", "explanation", "flow")),
        *(f"streams/schemas/{name}.schema.json" for name in ("alert", "alerts", "routes", "status")),
        "streams/schemas/asyncapi.yaml",
        "streams/alerts/defaults.yaml",
    ):
        assert required in names
    pages = {name.partition(".data/data/")[2] for name in names if "/share/man/" in name}
    assert pages == {f"share/man/man{page}" for page in ("1/weir.1", "8/weir-probe.8", "8/weir-streams.8")}


def test_the_packages_are_ours_and_not_others_of_the_same_name() -> None:
    for name in ("probe", "streams", "enrich", "bpf"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        assert Path(found.origin).is_relative_to(ROOT)


def test_every_console_script_starts(project: dict[str, dict[str, dict[str, str]]]) -> None:
    scripts = project["project"]["scripts"]
    assert set(scripts) == {"weir", "kubectl-weir", "weir-probe", "weir-streams"}
    for name, target in scripts.items():
        module, function = target.split(":")
        run = f"import sys; sys.argv[0] = '/bin/{name}'; from {module} import {function}; {function}()"
        done = subprocess.run([sys.executable, "-c", run, "--help"], capture_output=True, text=True, check=True)
        called = name.replace("kubectl-", "kubectl ")  # kubectl runs its plugins so
        assert done.stdout.startswith(f"Usage: {called} [OPTIONS]")


def test_the_lock_pins_by_hash_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^([a-z0-9._-]+)==\S+ \\$", lock, re.MULTILINE)
    assert {"numpy", "orjson", "faust-streaming", "confluent-kafka", "kubernetes", "pytest"} <= set(pinned)
    assert lock.count("--hash=sha256:") >= len(pinned)
    assert "://" not in lock
    # bcc is Debian's; the packages that PyPI has under these names are other ones.
    assert not {"bcc", "enrich", "probe", "streams", "bpf"} & set(pinned)


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.prefix) / "bin" / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("bcc", {"probe/kernel/compiler.py"}),
        ("pyroute2", {"probe/node/netlink.py"}),
        ("kubernetes", {"enrich/sources/client.py"}),
        ("confluent_kafka", {"probe/export", "streams/kafka"}),
        ("aiokafka", {f"streams/worker/{name}.py" for name in ("bounded_fetch", "group_errors", "token_provider")}),
        ("cramjam", {"streams/worker/inflate.py"}),
        ("duckdb", {"streams/cli/sql"}),
        ("faust", {f"streams/worker/{name}.py" for name in ("bounded_app", "credentials", "enrich_app", "faust_app")}),
        ("grpc", {"streams/sinks/grpc_call.py", "streams/hubble/server.py", "streams/hubble/service.py"}),
        ("mcp", {"streams/cli/mcp/server.py"}),
        ("opentelemetry", {"streams/sinks/otlp.py"}),
        ("pyarrow", {"streams/cli/sql"}),
        ("starlette", {"streams/web"}),
        ("uvicorn", {"streams/web"}),
        ("watchfiles", {"enrich/runtime/folder.py"}),
    ],
)
def test_each_library_is_imported_in_one_module_or_folder(library: str, homes: set[str]) -> None:
    importing = re.compile(rf"^\s*(import|from) {library}\b", re.MULTILINE)
    rooms = ("probe", "streams", "enrich", "bpf")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    found = [file.relative_to(ROOT) for file in files if importing.search(file.read_text())]
    assert {str(file if str(file) in homes else file.parent) for file in found} == homes


def test_calls_that_can_end_the_process_are_made_where_they_are_made_safe() -> None:
    """librdkafka aborts when a coordinator answers such a call too late; one of them has no safe form at all."""
    calls = ("describe_consumer_groups", "delete_consumer_groups", "(alter|delete|list)_consumer_group_offsets")
    calling = re.compile(rf"\.({'|'.join(calls)})\(")
    files = [file for room in ("probe", "streams", "enrich") for file in (ROOT / room).rglob("*.py")]
    found = {str(file.relative_to(ROOT)): set(calling.findall(file.read_text())) for file in files}
    names = {file: {name for name, _ in names} for file, names in found.items() if names}
    expected = {"describe_consumer_groups", "delete_consumer_groups", "alter_consumer_group_offsets"}
    assert names == {"streams/kafka/consumer_groups.py": expected}


def test_calls_that_may_never_return_are_made_where_they_have_a_limit() -> None:
    """librdkafka's `close` of a consumer has no timeout, and one call ignores the timeout that it is given."""
    calling = re.compile(r"(?:consumers?\b[^\n]*|probe|producer)\.(close|send_offsets_to_transaction)\b")
    files = (ROOT / "streams").rglob("*.py")
    users = [file for file in files if "confluent_kafka" in (text := file.read_text()) and calling.search(text)]
    assert [str(file.relative_to(ROOT)) for file in users] == ["streams/kafka/hanging_calls.py"]
