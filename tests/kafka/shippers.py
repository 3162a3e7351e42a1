"""Runs the log shippers of deploy/shippers with the published files, and reads what their destinations received."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from ports import free_port

from tests.attachments import attach
from tests.daemons import UNPACKED, daemon
from tests.kafka.elasticsearch import Elasticsearch
from tests.kafka.receiver import Receiver
from tests.schemas import ROOT
from tests.whole_lines import whole_lines

FOLDER = ROOT / "deploy/shippers"
Flow = dict[str, Any]


@dataclass
class Shipper:
    """One shipper: how it is started, and what its destination received."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    received: Callable[[], list[Flow]]
    may_lose: int = 0
    """How many records two kills may lose: those in hand."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        attach(self.name, self.process, self.log)

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def check(self) -> None:
        """Start the process."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} has ended: {self.log.read_text()[-3000:]}"


def lines(path: Path) -> list[Flow]:
    """Return the complete lines of a file."""
    return [orjson.loads(line) for line in whole_lines(path)] if path.exists() else []


def bodies(receiver: Receiver) -> list[Flow]:
    """Return the records in the bodies of logs, which are texts or maps."""
    return [orjson.loads(made) if isinstance(made := plain(log.body), str) else made for log in list(receiver.logs)]


def plain(value: AnyValue) -> Any:
    """Convert an OTLP value to Python."""
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def rsyslog(folder: Path, env: dict[str, str]) -> Shipper:
    file = folder / "rsyslog.log"
    return _rsyslog("rsyslog", folder, {**env, "FILE": str(file)}, lambda: lines(file))


def rsyslog_elasticsearch(folder: Path, env: dict[str, str], elasticsearch: Elasticsearch, index: str) -> Shipper:
    work = folder / "rsyslog-elasticsearch"
    work.mkdir()

    def documents() -> list[Flow]:
        refused = work / "refused.json"
        assert not refused.exists(), refused.read_text()[:2000]
        return [hit["_source"] for hit in elasticsearch.search(index, {"size": 5000})["hits"]["hits"]]

    own = {"ELASTICSEARCH": elasticsearch.url, "INDEX": index}
    made = _rsyslog("rsyslog-elasticsearch", work, {**env, **own}, documents)
    # librdkafka may commit the offset of a record that is on its way.
    made.may_lose = 2
    return made


def _rsyslog(name: str, folder: Path, env: dict[str, str], received: Callable[[], list[Flow]]) -> Shipper:
    libraries = UNPACKED / "usr/lib/x86_64-linux-gnu"
    command = [
        daemon("usr/sbin/rsyslogd"), "-n", "-i", "NONE", "-M", libraries / "rsyslog", "-f", FOLDER / f"{name}.conf",
    ]  # fmt: skip
    own = {"LD_LIBRARY_PATH": str(libraries), "WORK": str(folder)}
    return Shipper(name, [str(word) for word in command], env | own, folder / f"{name}.err", received)


def connect(folder: Path, env: dict[str, str]) -> Shipper:
    file = folder / "connect.log"
    (jars,) = UNPACKED.parent.glob("connect-*")
    command = [
        "java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*",
        "org.apache.kafka.connect.cli.ConnectStandalone", FOLDER / "connect-worker.properties",
        FOLDER / "connect-file-sink.properties",
    ]  # fmt: skip
    own = {"FILE": str(file), "WORK": str(folder), "REST_PORT": str(free_port())}
    return Shipper("connect", [str(word) for word in command], env | own, folder / "connect.err", lambda: lines(file))


def collector_binary() -> str | None:
    """Of the OpenTelemetry Collector, which is built if it is not there; None: there is no Go to build it."""
    how = ["--if-built"] if shutil.which("go") is None else []
    built = subprocess.run([ROOT / "deploy/local/collector", *how], stdout=subprocess.PIPE, text=True, check=False)
    assert built.returncode == 0 or how, "deploy/local/collector says above why it could not be built"
    return built.stdout.strip() or None


def collector(binary: str, file: str, folder: Path, env: dict[str, str], receiver: Receiver) -> Shipper:
    command = [binary, "--config", str(FOLDER / f"{file}.yaml")]
    own = {"FAR_END": receiver.url.removesuffix("/v1/logs")}
    return Shipper(file, command, env | own, folder / f"{file}.err", lambda: bodies(receiver))
