"""The real command as a process: protocol only on standard output, and a clean end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from streams.cli.mcp.stdin import MAX_MESSAGE, Messages
from tests.waiting import until

_WEIR = Path(sys.prefix) / "bin/weir"


class Server:
    """`weir mcp`, with a Kafka that does not exist."""

    def __init__(self, *, folder: Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [_WEIR, "mcp", "--kafka", "127.0.0.1:1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd=folder, env={**os.environ, **env},
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self.send(
            "initialize", 1, protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t", "version": "1"}
        )
        assert self.read()["result"]["serverInfo"]["name"] == "kubeweir"
        self.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    def write(self, line: bytes) -> None:
        self._stdin.write(line)
        self._stdin.flush()

    def send(self, method: str, number: int, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.write(json.dumps(message).encode() + b"\n")

    def read(self) -> Any:
        return json.loads(self._stdout.readline())

    def children(self) -> list[int]:
        """Return the processes that it has started."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(one) for one in text.split()]

    def end(self) -> tuple[int, bytes, bytes]:
        """Close standard input; return the exit code, and what else it has written."""
        stdout, stderr = self.process.communicate(timeout=240)
        return self.process.returncode, stdout, stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    # A folder in which an assistant works may have a module with a name of ours.
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams/__init__.py").write_text("raise SystemExit('a stranger's module ran')")
    made = Server(folder=tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()


def _runs(child: int) -> bool:
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _begin_to_observe(server: Server, number: int) -> int:
    """Ask for what takes long without Kafka, and return the process that does it."""
    server.send("tools/call", number, name="observe", arguments={})
    until(lambda: any(b"observe" in Path(f"/proc/{one}/cmdline").read_bytes() for one in server.children()))
    (child,) = server.children()
    return child


def test_a_signal_ends_it_and_the_command_that_runs(server: Server) -> None:
    child = _begin_to_observe(server, 2)
    os.kill(server.process.pid, signal.SIGTERM)
    # Standard input is still open.
    assert server.process.wait(60) == 0
    assert not _runs(child)


def test_mistakes_and_cancelled_requests_end_nothing_else_and_the_end_of_input_ends_all(server: Server) -> None:
    child = _begin_to_observe(server, 2)
    server.write(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}\n')
    until(lambda: not _runs(child))
    server.write(b"no JSON\n\xff\xfe\n")
    server.send("tools/call", 3, name="observe", arguments={"port": ["x"]})
    while (answer := server.read()).get("id") != 3:
        assert "result" not in answer
    assert answer["result"]["isError"]
    assert answer["result"]["content"][0]["text"] == "port.0: 'x' is not of type 'integer'"
    child = _begin_to_observe(server, 4)
    code, stdout, stderr = server.end()
    assert code == 0, stderr
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in stdout.splitlines())
    assert not _runs(child)


_SHOP = """
{kind: Namespace, apiVersion: v1, metadata: {name: shop}}
---
kind: Pod
apiVersion: v1
metadata: {name: web, namespace: shop, uid: u1, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], phase: Running}
---
kind: Pod
apiVersion: v1
metadata: {name: db, namespace: shop, uid: u2, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}], phase: Running}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}
"""


def test_explain_says_what_would_allow_a_connection_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "shop.yaml").write_text(_SHOP)
    server = Server(folder=tmp_path, WEIR_SOURCE=f"manifests:{folder}")
    try:
        ends = {"source": "shop/web", "destination": "shop/db:5432"}
        server.send("tools/call", 2, name="explain", arguments=ends)
        assert "suggestion" not in server.read()["result"]["structuredContent"]["answer"]
        server.send("tools/call", 3, name="explain", arguments={**ends, "suggest": True})
        found = server.read()["result"]["structuredContent"]
        assert found["command"] == "weir explain --output=json --suggest -- shop/web shop/db:5432"
        (policy,) = found["answer"]["suggestion"]["policies"]
        assert policy["spec"] == {
            "podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                         "ports": [{"protocol": "TCP", "port": 5432}]}],
        }  # fmt: skip
        assert found["answer"]["verdict"] == "deny"
        assert (folder / "shop.yaml").read_text() == _SHOP
        server.send("tools/call", 4, name="explain", arguments={**ends, "suggest": "--kafka=elsewhere"})
        refused = server.read()["result"]
        assert refused["isError"]
        assert refused["content"][0]["text"] == "suggest: '--kafka=elsewhere' is not of type 'boolean'"
        assert server.end()[0] == 0
    finally:
        server.process.kill()


def test_a_message_that_is_too_long_ends_the_input() -> None:
    read, write = os.pipe()

    async def lines() -> list[str]:
        return [line async for line in Messages(read)]

    writing = threading.Thread(target=_write_long, args=(write,))
    writing.start()
    assert anyio.run(lines) == ["first", "second"]
    os.close(read)
    writing.join(60)


def _write_long(descriptor: int) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as file:
        file.write(b"first\nsecond\n" + b"x" * 2 * MAX_MESSAGE)


def test_without_the_package_one_line_says_how_to_install_it(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['mcp'] = None; sys.argv[0] = 'weir'; from streams.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "mcp"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert "pip install '.[mcp]'" in done.stderr
    assert "Traceback" not in done.stderr
