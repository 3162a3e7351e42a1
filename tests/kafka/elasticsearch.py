"""A real Elasticsearch for the tests, on a random loopback port; it stops with the test run, however that ends."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import urllib3
from ports import free_port

from tests.attachments import attach
from tests.daemons import UNPACKED
from tests.kafka.broker import PATIENCE_S
from tests.kafka.site import until
from tests.schemas import ROOT

SHIPPERS = ROOT / "deploy/shippers"
_POM = ROOT / "deploy/local/elasticsearch-pom.xml"
_JARS = UNPACKED.parent / f"elasticsearch-7.17.28-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:8]}"

_REQUEST = 100
"""Records in a request: a node with little memory refuses large ones."""


class Elasticsearch:
    """One node, asked by HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """Return its answer, which may be a refusal."""
        kind = "application/x-ndjson" if "_bulk" in path else "application/json"
        answer = urllib3.request(
            method, self.url + path, body=body, headers={"Content-Type": kind}, timeout=240, retries=False
        )
        found: dict[str, Any] = orjson.loads(answer.data)
        return found

    def load_templates(self) -> None:
        """Load the index templates as deploy/shippers/README.md says."""
        for name, file in (("kubeweir", "elasticsearch-template"), ("kubeweir-ecs", "elasticsearch-ecs-template")):
            content = (SHIPPERS / f"{file}.json").read_bytes()
            assert self.ask("PUT", f"/_index_template/{name}", content) == {"acknowledged": True}

    def index(self, index: str, values: Sequence[bytes]) -> list[dict[str, Any]]:
        """Index records; return why it refused some, as it says it."""
        refused: list[dict[str, Any]] = []
        for first in range(0, len(values), _REQUEST):
            lines = [b'{"index":{}}\n' + value + b"\n" for value in values[first : first + _REQUEST]]
            answer = self.ask("POST", f"/{index}/_bulk", b"".join(lines))
            assert len(answer.get("items", ())) == len(lines), answer
            refused += [item["index"]["error"] for item in answer["items"] if "error" in item["index"]]
        return refused

    def search(self, index: str, query: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a query. An index that does not exist is empty; a new one is waited for."""
        self.ask("POST", f"/{index}/_refresh")
        found: dict[str, Any] = {}

        def has_shards() -> bool:
            found.update(self.ask("POST", f"/{index}/_search?ignore_unavailable=true", orjson.dumps(query)))
            causes = found.pop("error", {}).get("root_cause", ())
            assert all(cause["type"] == "no_shard_available_action_exception" for cause in causes), causes
            return not causes

        until(has_shards, f"shards of {index}")
        return found


def run_elasticsearch(folder: Path) -> Iterator[Elasticsearch]:
    """A node that answers and has the index templates."""
    assert _JARS.is_dir(), f"{_JARS} does not exist: run deploy/local/setup"
    (folder / "home/config").mkdir(parents=True)
    port, log = free_port(), folder / "elasticsearch.log"
    command = [
        "setpriv", "--pdeathsig", "KILL", "java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
        "-cp", f"{_JARS}/*", Path(__file__).with_name("OneNode.java"), folder / "home", port, free_port(),
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    attach("Elasticsearch", process, log)
    made = Elasticsearch(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return made.ask("GET", "/_cluster/health?timeout=0s").get("status") in {"green", "yellow"}
        except urllib3.exceptions.HTTPError:
            return False

    try:
        until(answers, "an answer of Elasticsearch", PATIENCE_S)
        made.load_templates()
        yield made
    finally:
        process.kill()
        process.wait()
