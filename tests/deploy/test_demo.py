"""Tests of the demo as a user runs it: what it prints, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import orjson
import pytest
from netns import PATIENCE_S

from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
HOME = Path("/run/kubeweir-demo")
PINS = Path("/sys/fs/bpf/kubeweir-demo")
SCHEMA = orjson.loads((ROOT / "enrich/schemas/flow.schema.json").read_bytes())

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


class Run:
    """A running demo, and its output so far."""

    def __init__(self, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "deploy/local/demo"], cwd=ROOT, env={**os.environ, "KEEP": "", **env}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def wait_for(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """Wait until the output has a match of the pattern. Fails if the demo ends before."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            if found := re.search(pattern, self.output):
                return found
            assert not ended, self.output
            time.sleep(0.05)
        pytest.fail(f"the output has no match of {pattern!r}:\n{self.output}")

    def end(self, number: int | None = None, timeout_s: float = 60) -> int:
        """Send a signal, if one is given, wait for the end and return the exit code."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def close(self) -> None:
        """End the demo if it still runs, and close its output."""
        try:
            self.end(signal.SIGTERM if self.process.poll() is None else None)
        except subprocess.TimeoutExpired:
            self.end(signal.SIGKILL)
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)


@pytest.fixture
def demo() -> Iterator[Callable[..., Run]]:
    with contextlib.ExitStack() as stack:

        def start(**env: str) -> Run:
            run = Run(**env)
            stack.callback(run.close)
            return run

        yield start


def leftovers() -> list[str]:
    """Return everything that exists of what a demo makes."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    found = [line.split()[0] for line in listed.splitlines() if line.startswith("weir-demo-")]
    found += [str(path) for path in (HOME, PINS) if path.exists()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            about = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(PINS) in about or os.fsencode(HOME) in about:
            found.append(f"process {process.name}")
    return found


def links() -> set[str]:
    # Those of the local cluster of other tests come and go meanwhile.
    found = {one.name for one in Path("/sys/class/net").iterdir()}
    return {name for name in found if name != "weir-cluster" and not name.startswith("weir-node-")}


def is_answered(space: str, url: str, patience_s: float = 1) -> bool:
    """Return whether an HTTP request from a pod's namespace is answered in time."""
    command = ["ip", "netns", "exec", f"weir-demo-{space}", "curl", "-gsf", "-m", str(patience_s), url]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def flows(kafka: str) -> list[dict[str, Any]]:
    """Read all records with kcat."""
    command = ["kcat", "-C", "-q", "-e", "-b", kafka, "-t", "kubeweir.flows", "-o", "beginning"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=240)
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def normalized(line: str) -> str:
    """Return a line without what differs between runs (times, Kafka's port) and with single spaces."""
    differs = r"^\d\d:\d\d:\d\d\.\d{3}|(?<=127\.0\.0\.1:)\d+|(?<=in force after )\d+\.\d\d"
    differs += r"|(?<=of the observed denies: )\d+"
    return " ".join(re.sub(differs, "", line).split())


def picture_lines() -> list[str]:
    """Return the lines of the README's picture from top to bottom."""
    texts = ElementTree.parse(ROOT / "deploy/demo.svg").iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 - our own
    lines: dict[float, list[tuple[float, str]]] = {}
    for text in texts:
        lines.setdefault(float(text.get("y", 0)), []).append(
            (float(text.get("x", 0)), "".join(text.itertext()).replace("\xa0", " "))
        )
    return ["".join(part for _, part in sorted(parts)) for _, parts in sorted(lines.items())]


def named(refs: list[dict[str, str]]) -> set[str]:
    return {f"{ref['namespace']}/{ref['name']}" for ref in refs}


def assert_the_past_is_foretold(last_act: str) -> None:
    recommended, backtested = last_act.split("demo: somebody proposes")
    assert "  for Deployment/api\n    from shop Deployment/web: 4 connections" in recommended
    assert "proof: allows 100 % of the observed allows" in recommended
    assert "proof: allows none of the observed denies" in recommended
    assert "20 connections go as before: 10 are allowed, 10 denied" in recommended
    assert re.search(r"^newly denied +2 pairs ", backtested, re.MULTILINE)
    assert backtested.count("batch/only-dns rule 0: port 53/UDP is not among 53/TCP") == 2
    assert "denied as foretold: the report resolves a name, 2 connections" in backtested
    assert "the other 18 connections go as before: 8 are allowed, 10 denied" in backtested


def test_the_demo_shows_both_verdicts_and_a_switch_of_logging_and_leaves_nothing(demo: Callable[..., Run]) -> None:
    links_before, begun = links(), time.time()
    run = demo()
    assert run.end(timeout_s=400) == 0, run.output
    both = r"egress|ingress .*shop/api-\S+ +data/db-0 +tcp/5432 +allow +data/db-from-api, data/db-from-shop$"
    assert len(re.findall(rf"^\S+ +(?:{both})", run.output, re.MULTILINE)) >= 2
    before, rest = run.output.split("demo: second act: ")
    second_act, last_act = rest.split("demo: last act: ")
    denied = re.compile(r" deny +isolated by batch/only-dns$", re.MULTILINE)
    assert len(denied.findall(before)) == 4
    assert "lost: none" in before
    assert len(denied.findall(second_act)) == 4
    assert "20 connections as before, and 4 verdicts" in second_act
    assert re.search(r"counted: 14 allowed verdicts, \d+ denied packets", second_act)
    assert re.search(r"6 verdicts: everything is logged again", second_act)
    assert_the_past_is_foretold(last_act)
    demo_line = re.compile(r"\d\d:\d\d:\d\d\.|demo: ")
    # What differs between machines is not in the picture.
    differs = ("removed a leftover", "picture of the map")
    lines = [
        line for line in run.output.splitlines() if demo_line.match(line) and not any(one in line for one in differs)
    ]
    shown = sorted(map(normalized, lines))
    picture = sorted(normalized(line) for line in picture_lines() if demo_line.match(line))
    assert picture == shown, "the README's picture is out of date: draw it again with deploy/local/picture"
    if shutil.which("chromium") and (ROOT / "streams/web/static/vendor").is_dir():
        assert "demo: a picture of the map of all this: build/demo.png" in run.output
        assert (ROOT / "build/demo.png").read_bytes().startswith(b"\x89PNG")
        assert (ROOT / "build/demo.png").stat().st_mtime > begun
    assert not leftovers()
    assert links() == links_before


def test_with_keep_a_user_can_try_traffic_a_restart_and_a_policy(demo: Callable[..., Run]) -> None:
    run = demo(KEEP="1")
    kafka = run.wait_for(r"kcat -C -b (\S+)", 400).group(1)
    second = demo()
    assert second.end() == 4
    assert "is already running" in second.output

    records = flows(kafka)
    for record in records:
        jsonschema.validate(record, SCHEMA, cls=jsonschema.Draft202012Validator)
    for web, api, db in (("10.244.0.10", "10.244.0.20", "10.244.0.30"), ("fd44::10", "fd44::20", "fd44::30")):
        let_in = [
            r
            for r in records
            if r["connection"] | {"src_ip": api, "dest_ip": db, "direction": "ingress"} == r["connection"]
        ]
        assert let_in
        assert all(r["disposition"] == "allow" for r in let_in)
        assert all(named(r["policies"]) == {"data/db-from-api", "data/db-from-shop"} for r in let_in)
        kept_out = [r for r in records if r["connection"] | {"src_ip": web, "dest_ip": db} == r["connection"]]
        assert kept_out
        assert all(r["disposition"] == "deny" and not r["policies"] for r in kept_out)
        # In the last act, recommended policies are in force.
        isolating = [{"shop/default-deny", "shop/web-to-api"}, {"shop/seen-web"}]
        assert all(named(r["isolated_by"]) in isolating for r in kept_out)

    denied = [("outside", f"http://{api}:8080/") for api in ("10.244.0.20", "[fd44::20]")]
    allowed = [("web", url) for _, url in denied]

    def as_policy_says() -> bool:
        return all(is_answered(*one, PATIENCE_S) for one in allowed) and not any(is_answered(*one) for one in denied)

    assert as_policy_says()
    probe = int(run.wait_for(r"kill -9 (\d+)").group(1))
    os.kill(probe, signal.SIGKILL)
    run.wait_for("weir-probe was killed")
    assert as_policy_says()
    assert "runs again" not in run.output
    run.wait_for("weir-probe runs again")
    assert as_policy_says()
    known = {r["id"] for r in flows(kafka)}
    assert known >= {r["id"] for r in records}
    assert not is_answered(*denied[0])
    until(lambda: any(r["id"] not in known and r["disposition"] == "deny" for r in flows(kafka)))

    policy = HOME / "manifests/more.yaml"
    policy.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: api-from-all}\n"
        "spec: {podSelector: {matchLabels: {app: api}}, ingress: [{}]}\n"
    )
    until(lambda: all(is_answered(*one, 5) for one in denied))
    policy.unlink()
    until(lambda: not any(is_answered(*one) for one in denied))
    assert run.end(signal.SIGINT) == 0
    assert not leftovers()


@pytest.mark.parametrize("moment", ["making a node", "starting weir-streams"])
def test_ctrl_c_during_the_start_leaves_nothing(demo: Callable[..., Run], moment: str) -> None:
    run = demo()
    run.wait_for(moment)
    assert run.end(signal.SIGINT) == 130, run.output
    assert "Traceback" not in run.output
    assert not leftovers()


def test_a_failed_start_prints_its_cause_and_leaves_nothing(demo: Callable[..., Run], tmp_path: Path) -> None:
    for tool in ("ip", "setpriv", "nsenter", "sysctl", "env", "python3"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    run = demo(PATH=str(tmp_path))
    assert run.end() == 1, run.output
    assert "failed: kafka ended: kafka: Java is not installed" in run.output
    assert not leftovers()


_WITHOUT_PORTS = """
import pathlib, runpy, sys
sys.path[:0] = ["deploy/local", "deploy/local/demo"]
import ports, stack
def free_ports(number):
    raise RuntimeError("there are no ports")
ports.free_ports, stack.HOME, stack.sweep = free_ports, pathlib.Path(sys.argv[1]), list
runpy.run_path("deploy/local/demo/__main__.py", run_name="__main__")
"""


def test_without_free_ports_nothing_is_made(tmp_path: Path) -> None:
    """In a network namespace of its own, where it may run beside another demo, whose things it leaves alone."""
    home = tmp_path / "home"
    command = ["unshare", "--net", sys.executable, "-c", _WITHOUT_PORTS, str(home)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "demo: failed: there are no ports\n")
    assert not home.exists()


def test_the_next_run_removes_what_a_killed_one_left(demo: Callable[..., Run]) -> None:
    killed = demo()
    killed.wait_for("both services are ready")
    killed.process.kill()
    killed.end()
    assert leftovers()
    run = demo()
    run.wait_for("removed a leftover of an earlier demo: namespace weir-demo-node")
    assert run.end(signal.SIGINT) == 130
    assert not leftovers()
