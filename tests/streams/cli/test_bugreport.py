"""What `weir bugreport` gathers: no secret, on demand no name, in a file that only its owner may read."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from streams.cli import bugreport_command
from streams.cli.bugreport.parts import HIDDEN, answer, settings, versions
from streams.cli.bugreport.redacting import Pseudonyms
from streams.cli.main import command

SECRET = "hunter2"  # noqa: S105 - a test's
ENV = {
    "WEIR_KAFKA": "kafka-1.corp.example:9092,10.1.2.3:9092", "WEIR_KAFKA_PROTOCOL": "sasl_ssl",
    "WEIR_KAFKA_USERNAME": "alice", "WEIR_KAFKA_PASSWORD": SECRET, "WEIR_KAFKA_PASSWORD_FILE": "/etc/alice/password",
    "WEIR_KAFKA_EXTRA": f"ssl.key.password={SECRET},socket.keepalive.enable=true", "WEIR_STALL": "30",
    "WEIR_ALERTMANAGER": f"https://bob:{SECRET}@hooks.corp.example/{SECRET}?x={SECRET}", "WEIR_CHAT_TOKEN": SECRET,
    "WEIR_KAFKA_OAUTH_EXTENSIONS": f"key={SECRET}", "PATH": "/home/alice/bin",
}  # fmt: skip
STATUS = {
    "problems": [{"node": "node-a.corp.example", "cluster": "prod", "text": "node-a.corp.example: 3 are missing"}],
    "nodes": [{"node": "node-a.corp.example", "cluster": "prod", "state": {
        "unenforced": {"shop/web-0": "no interface has its address 10.9.8.7 yet"}, "capacity": {"endpoints": [1, 128]},
    }}],
    "workers": [{"worker": "weir-streams-7f", "version": "0.1.0", "as_of": "2026-11-30T10:53:14Z"}],
}  # fmt: skip
DOCTOR = {"findings": [{"level": "problem", "about": "Kafka kafka-2.corp.example:9092", "text": (
    "cannot reach kafka-2.corp.example:9092 nor HTTPSConnectionPool(host='api.corp.example', port=6443), [2001:db8::7]"
)}]}  # fmt: skip
METRICS = 'kubeweir_probe_unenforced_pod{namespace="shop",pod="web-0",reason="no address"} 1.0\n'
NAMES = ("corp.example", "alice", "prod", "shop", "web-0", "weir-streams-7f", "10.1.2.3", "10.9.8.7", "2001:db8")


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Everything answers, and the current folder is an empty one."""

    def say(words: Sequence[str], _env: Mapping[str, str]) -> Any:
        return {"doctor": DOCTOR, "status": STATUS}[words[0]]

    def show(address: str) -> Iterator[tuple[str, str]]:
        if not address.endswith(":9701"):
            raise ConnectionRefusedError
        yield "metrics", METRICS

    monkeypatch.setattr(bugreport_command, "answer", say)
    monkeypatch.setattr(bugreport_command, "pages", show)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bugreport(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["bugreport", "--file", "report.tar.gz", *arguments], env=ENV)


def contents(path: Path) -> dict[str, str]:
    """Return the files of an archive."""
    with tarfile.open(path) as archive:
        files = {one.name: archive.extractfile(one) for one in archive}
        assert all(one.mode == 0o600 for one in archive)
        return {name.partition("/")[2]: file.read().decode() for name, file in files.items() if file}


def test_it_has_no_secret_and_says_what_is_inside(gathered: Path) -> None:
    result = bugreport()
    assert result.exit_code == 0, result.output
    path = gathered / "report.tar.gz"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = contents(path)
    assert set(found) == {
        "README.txt", "settings.json", "versions.json", "doctor.json", "status.json", "metrics/127.0.0.1-9701.txt",
    }  # fmt: skip
    assert all(f"  {name}  {len(text):,} bytes" in result.stdout for name, text in found.items())
    assert not [name for name, text in found.items() if SECRET in text or "bob" in text]
    assert json.loads(found["status.json"]) == STATUS
    shown = json.loads(found["settings.json"])
    assert shown["WEIR_KAFKA_PASSWORD"] == shown["WEIR_CHAT_TOKEN"] == HIDDEN
    assert shown["WEIR_ALERTMANAGER"] == "https://hooks.corp.example"
    assert shown["WEIR_KAFKA_EXTRA"] == f"ssl.key.password={HIDDEN},socket.keepalive.enable={HIDDEN}"
    assert "PATH" not in shown


def test_redacted_it_has_no_name_and_each_pseudonym_is_the_same_everywhere(gathered: Path) -> None:
    assert bugreport("--redact").exit_code == 0
    found = contents(gathered / "report.tar.gz")
    assert not [(name, one) for name, text in found.items() for one in NAMES if one in text]
    names_file = gathered / "report-names.json"
    assert stat.S_IMODE(names_file.stat().st_mode) == 0o600
    names = {name: pseudonym for pseudonym, name in json.loads(names_file.read_text()).items()}
    status = json.loads(found["status.json"])
    assert status["problems"][0]["text"] == f"{names['node-a.corp.example']}: 3 are missing"
    assert f'namespace="{names["shop"]}",pod="{names["web-0"]}"' in found["metrics/127.0.0.1-9701.txt"]
    assert f"{names['shop']}/{names['web-0']}" in status["nodes"][0]["state"]["unenforced"]
    assert status["nodes"][0]["state"]["capacity"] == {"endpoints": [1, 128]}
    # What names nothing stays: a protocol, a number, a time, a version.
    shown = json.loads(found["settings.json"])
    assert (shown["WEIR_KAFKA_PROTOCOL"], shown["WEIR_STALL"]) == ("sasl_ssl", "30")
    assert (status["workers"][0]["version"], status["workers"][0]["as_of"]) == ("0.1.0", "2026-11-30T10:53:14Z")


def test_a_file_that_exists_is_left_alone(gathered: Path) -> None:
    (gathered / "report.tar.gz").write_text("mine")
    os.chmod(gathered / "report.tar.gz", 0o644)  # noqa: PTH101
    result = bugreport()
    assert (result.exit_code, result.stderr) == (3, "weir: report.tar.gz: File exists\n")
    assert (gathered / "report.tar.gz").read_text() == "mine"


def test_a_part_of_a_longer_name_is_not_what_is_known() -> None:
    made = Pseudonyms()
    for name in ("web", "web-0", "n1"):
        made.learn(name, "pod")
    assert made.hidden("web-0 webs web n1 n10 n1.local") == "pod-2 webs pod-1 pod-3 n10 pod-3.local"


def test_commands_run_in_a_process_of_their_own() -> None:
    words = ("size", "--nodes", "1", "--pods", "1", "--connections", "1", "-o")
    assert answer((*words, "json"), os.environ)["schema"] == 1
    assert answer((*words, "text"), {**os.environ, "LANG": "C"}) == ["nothing was printed"]


def test_versions_and_settings_of_another_environment() -> None:
    assert {"click", "confluent-kafka", "msgspec"} <= set(versions()["libraries"])
    assert settings({"HOME": "/root", "WEIR_KAFKA_KEY": "/etc/tls.key"}) == {"WEIR_KAFKA_KEY": "/etc/tls.key"}
