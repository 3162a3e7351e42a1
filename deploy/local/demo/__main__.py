"""`make demo`: kubeweir on a small cluster of network namespaces, with real traffic, through a real Kafka.

The demo ends by itself with a summary; with KEEP=1 it runs until Ctrl-C. It leaves nothing behind, however it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alerting import wait_until
from logged import NAMESPACE, OBJECT, LoggingAct
from page import draw_map, start_page
from past import Desk, PastAct
from pods import ATTEMPTS, SCANNED, Pods
from ports import free_ports
from stack import HOME, PINS, ROOT, DemoError, Stack, script, sweep, wait_for_port
from summary import complaint, lost, missing_verdicts, records, summarize

WINDOW_S = 2.0
SETTLE_S = 30.0
START_S = 180.0
"""On a machine with much other work, compiling the programs takes more than a minute."""
ROUND_EVERY_S = 10.0
RESTART_S = 3.0
ALERTS_PORT = 4
"""The port of the role `alerts` is the enricher's port plus this (streams.main.ROLES)."""
STREAMS_PORTS = 8
"""After the enricher's port, one for each other role, the one of all roles, that of the role web, and its page."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(text: str) -> None:
    """Print one line about what the demo does."""
    print(f"demo: {text}", flush=True)


def main() -> int:
    if os.geteuid() != 0:
        print("demo: must run as root: it makes network namespaces and loads programs", file=sys.stderr)
        return 3
    keep = os.environ.get("KEEP", "") not in ("", "0")
    # The kernel frees an abstract address when its process ends, however it ends: a lock that leaves no file behind.
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind("\0kubeweir-demo")
    except OSError:
        print("demo: another demo is already running; end it first (Ctrl-C there)", file=sys.stderr)
        return 4
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    for thing in sweep():
        say(f"removed a leftover of an earlier demo: {thing}")
    try:
        demo = Demo()
    except RuntimeError as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    try:
        HOME.mkdir()
        return demo.run(keep=keep)
    except DemoError as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 0 if keep and demo.passed else 130
    finally:
        _ignore_signals()
        demo.close()
        sweep()
        say("cleaned up: no process, namespace, link or pinned object of the demo remains")


def _interrupt(_number: int, _frame: object) -> None:
    """End the demo at the first signal; a second one would only interrupt the clean-up."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Demo:
    """One run."""

    def __init__(self) -> None:
        self._since = datetime.now(UTC).isoformat()
        self.passed = False
        """Whether every connection and every record was as expected."""
        self._stack = Stack()
        services = ("kafka", "probe", "alertmanager", "streams")
        first = free_ports(len(services) + STREAMS_PORTS)
        self._ports = {name: first + index for index, name in enumerate(services)}
        self._alertmanager = f"http://127.0.0.1:{self._ports['alertmanager']}"
        self._manifests = HOME / "manifests"
        self._pods = Pods()

    def close(self) -> None:
        """Stop the services while the pods still exist, then remove the pods."""
        self._stack.close()
        self._pods.close()

    def run(self, *, keep: bool) -> int:
        self._start_all()
        self._scan()
        self._observe()
        wrong = self._pods.attempt_all(ATTEMPTS) + self._reached()
        flows = self._settled()
        wrong += [
            f"{attempt.why} over IPv{family}: {problem}"
            for attempt in ATTEMPTS
            for family in (4, 6)
            if (problem := complaint(attempt, family, flows))
        ]
        time.sleep(0.5)  # so that the last lines of the table come before the summary
        missing = lost(self._metrics()) + missing_verdicts(self._metrics(), flows)
        print(flush=True)
        for line in summarize(flows, missing):
            say(line)
        for problem in wrong:
            say(f"WRONG: {problem}")
        wait_until(self._alertmanager, fires=False)
        say("the alert port-scan is resolved in Alertmanager, because the scan is over")
        if not wrong and not missing:
            wrong = self._play_logging(flows) or self._play_past()
            for problem in wrong:
                say(f"WRONG: {problem}")
        if wrong or missing:
            for name in ("probe", "streams"):
                say(f"the last lines of {name}'s log:\n{self._stack.last_lines(name)}")
            return 1
        self.passed = True
        say(
            f"all {2 * len(ATTEMPTS)} connections went as policy says, and every record names the pods and the policies"
        )
        page = self._ports["streams"] + STREAMS_PORTS
        has_page = start_page(self._stack, self._env("streams"), page, say)
        if has_page:
            draw_map(self._stack, page, say)
        if keep:
            self._keep(page if has_page else 0)
        return 0

    def _start_all(self) -> None:
        kafka = str(self._ports["kafka"])
        say(f"starting Apache Kafka on 127.0.0.1:{kafka}")
        command = [sys.executable, "deploy/local/kafka", "run", "--dir", str(HOME / "kafka"), "--port", kafka]
        self._stack.start("kafka", command, {})
        port = str(self._ports["alertmanager"])
        command = [
            sys.executable,
            "deploy/local/alertmanager",
            "run",
            "--dir",
            str(HOME / "alertmanager"),
            "--port",
            port,
        ]
        self._stack.start("alertmanager", command, {})
        say("making a node, four pods and an outside host as network namespaces (IPv4 and IPv6)")
        self._pods.make()
        shutil.copytree(ROOT / "deploy" / "examples" / "demo", self._manifests)
        wait_for_port(self._stack, "kafka", self._ports["kafka"], START_S)
        say("starting weir-probe, which compiles, loads and attaches the eBPF programs")
        self._start_probe()
        say("starting weir-streams, and Alertmanager to receive its alerts")
        self._stack.start("streams", [script("weir-streams")], self._env("streams"))
        self._stack.wait_for("probe", self._url("probe", "readyz"), START_S)
        self._stack.wait_for("streams", self._url("streams", "readyz"), START_S)
        self._stack.wait_for("streams", f"http://127.0.0.1:{self._ports['streams'] + ALERTS_PORT}/readyz", START_S)
        self._stack.wait_for("alertmanager", f"{self._alertmanager}/-/ready", START_S)

    def _scan(self) -> None:
        """Scan ports until Alertmanager has the alert."""
        say(f"both services are ready; a port scan: the pod report tries {len(SCANNED)} ports of the outside host")
        self._pods.scan()
        (alert,) = wait_until(self._alertmanager, fires=True)
        say(f"Alertmanager has the alert {alert['labels']['alertname']}: {alert['annotations']['summary']}")

    def _observe(self) -> None:
        say(f"making {2 * len(ATTEMPTS)} connections, TCP, UDP and ICMP, over IPv4 and IPv6")
        say("the verdicts as they arrive (weir observe --follow --since TIME):\n")
        self._follow()

    def _follow(self) -> None:
        command = [script("weir"), "observe", "--follow", "--since", datetime.now(UTC).isoformat()]
        self._stack.start("observe", command, self._env("streams"), show=True)

    def _start_probe(self) -> None:
        self._stack.start("probe", [script("weir-probe")], self._env("probe"))

    def _settled(self) -> list[dict[str, object]]:
        """Return the records once no verdict of the traffic is still on its way."""
        time.sleep(WINDOW_S + 0.5)
        deadline = time.monotonic() + SETTLE_S
        while True:
            self._check_alive()
            flows = records(self._all_env())
            late = missing_verdicts(self._metrics(), flows) or any(
                complaint(attempt, family, flows) for attempt in ATTEMPTS for family in (4, 6)
            )
            if not late or time.monotonic() > deadline:
                return flows
            time.sleep(0.5)

    def _play_logging(self, flows: list[dict[str, object]]) -> list[str]:
        """Show what is logged under a NetworkLogging and without it, and return what did not go as expected."""
        metrics = self._url("probe", "metrics")
        wrong = LoggingAct(self._pods, self._manifests, metrics, lambda: records(self._all_env()), say).play(flows)
        if count := lost(self._metrics()):
            wrong.append(f"{count} verdicts were lost")
        return wrong + self._reached()

    def _play_past(self) -> list[str]:
        """Ask about the past, make it so, and return what did not go as expected."""
        self._stack.stop("observe")
        env = self._all_env()
        desk = Desk(self._pods, self._manifests, self._url("streams", "metrics"), env, lambda: records(env), say)
        return PastAct(desk, self._since).play(records(env)) + self._reached()

    def _reached(self) -> list[str]:
        return [f"{why} reached the server" for why in self._pods.reached_against_policy()]

    def _metrics(self) -> list[str]:
        return [self._url(name, "metrics") for name in ("probe", "streams")]

    def _check_alive(self, *names: str) -> None:
        for name in names or ("kafka", "probe", "streams", "observe"):
            if not self._stack.is_alive(name):
                raise DemoError(f"{name} ended: {self._stack.last_lines(name)}")

    def _keep(self, page: int) -> None:
        """Run until a signal. ``page``: the port of the page; 0 if there is none."""
        port = self._ports["kafka"]
        say("KEEP=1: running until Ctrl-C, with a round of connections every ten seconds. Try in another terminal:")
        if page:
            say(f"  open http://127.0.0.1:{page}/ in a browser    (the same verdicts, the why of each, and the map)")
        say(f"  kcat -C -b 127.0.0.1:{port} -t kubeweir.flows -o end")
        say(f"  curl {self._alertmanager}/api/v2/alerts")
        say("  ip netns exec weir-demo-web curl -m 2 http://10.244.0.20:8080/        (allowed)")
        say("  ip netns exec weir-demo-outside curl -m 2 http://10.244.0.20:8080/    (denied)")
        say(f"  edit {self._manifests}/policies.yaml    (a change is enforced as soon as the file is saved)")
        logging = self._manifests / OBJECT.name
        say(f"  cp {OBJECT.relative_to(ROOT)} {logging}    (only denials of {NAMESPACE} are logged)")
        say(f"  rm {logging}    (all of it again)")
        say(f"  tail -f {HOME}/probe.log    (the log of weir-probe; it also names mistakes in a policy)")
        say(f"  WEIR_KAFKA=127.0.0.1:{port} .venv/bin/weir policies --since 1h    (which policies and rules are used)")
        say(f"  kill -9 {self._stack.pid('probe')}    (enforcement stays, and the demo starts weir-probe again)")
        self._follow()
        due = time.monotonic() + ROUND_EVERY_S
        while True:
            time.sleep(0.2)
            self._check_alive("kafka", "streams", "observe")
            if not self._stack.is_alive("probe"):
                say(f"weir-probe was killed; enforcement stays in place; starting it again in {RESTART_S:.0f} s")
                time.sleep(RESTART_S)
                self._start_probe()
                self._stack.wait_for("probe", self._url("probe", "readyz"), START_S)
                say(f"weir-probe runs again with process id {self._stack.pid('probe')}")
            if time.monotonic() >= due:
                self._pods.attempt_all(ATTEMPTS)
                due = time.monotonic() + ROUND_EVERY_S

    def _env(self, service: str) -> dict[str, str]:
        return {
            "WEIR_KAFKA": f"127.0.0.1:{self._ports['kafka']}",
            "WEIR_SOURCE": f"manifests:{self._manifests}",
            "WEIR_NODE": "demo-node",
            "WEIR_CLUSTER": "demo",
            "WEIR_NETNS": "/run/netns/weir-demo-node",
            "WEIR_PIN_DIR": str(PINS),
            "WEIR_RUN_DIR": str(HOME / "run"),
            "WEIR_STATE_DIR": str(HOME / "state"),
            "WEIR_METRICS": f"127.0.0.1:{self._ports[service]}",
            "WEIR_DENY_WINDOW": str(WINDOW_S),
            "WEIR_PARTITIONS": "4",
            "WEIR_PAIRS": "1",
            "WEIR_PAIRS_FLUSH": "1",
            "WEIR_ALERTS": str(Path(__file__).with_name("alerts.yaml")),
            "WEIR_ALERTMANAGER": self._alertmanager,
            "WEIR_LOG_FORMAT": "json",
        }

    def _all_env(self) -> dict[str, str]:
        return {**os.environ, **self._env("streams")}

    def _url(self, service: str, path: str) -> str:
        return f"http://127.0.0.1:{self._ports[service]}/{path}"


if __name__ == "__main__":
    sys.exit(main())
