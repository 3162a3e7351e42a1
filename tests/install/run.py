"""Runs the commands of the pages on a cluster, in their order, and looks after them whether all is as the pages say."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from tests.cluster.whole.real import NAMESPACE, ROOT, Real, addresses, deployment, missing_numbers, numbers, until
from tests.cluster.whole.story import Loops, Pod, all_pairs, at_once, guard, left_on
from tests.install.pages import SCRIPT, Placeholders, commands, why_left_out

Found = TypeVar("Found")
SYSTEM: Final = "elsewhere"
"""The namespace of kubeweir here: another than the pages'."""
OLD, NEW = "latest", "next"
_COMMAND_S: Final = 1800.0
_WAIT_S: Final = 600.0
"""For what takes seconds on a quiet machine."""
_STATE: Final = (
    f"kubectl -n {SYSTEM} get pods -o wide; kubectl -n {SYSTEM} logs -l app.kubernetes.io/part-of=kubeweir"
    " --all-containers --prefix --tail=15"
)
"""What is shown when a run fails."""
_CTR: Final = ("/var/lib/weir/debian/usr/bin/ctr", "-n", "k8s.io", "images", "tag", "--force")


class Run:
    """One run on a cluster that has client and stranger and no kubeweir."""

    def __init__(self, real: Real, helm: Path, name: str) -> None:
        """``name`` is the image's on the nodes, ``helm`` the program."""
        self.real = real
        registry = name.partition("/kubeweir:")[0]
        self._placeholders = Placeholders(registry, real.kafka, SYSTEM, OLD, NEW)
        path = f"{helm.parent}:{real.programs}:{ROOT / '.venv/bin'}:{os.environ['PATH']}"
        self._environment = {**real.environment, "PATH": path, "HOME": str(real.folder)}
        self._forward: subprocess.Popen[bytes] | None = None
        self._token = ""
        self._loops: Loops | None = None
        self._before: list[dict[str, int]] = []
        self._sizes: dict[str, float] = {}
        for node in real.nodes():
            for tag in (OLD, NEW):
                real.on(node, *_CTR, name, f"{registry}/kubeweir:{tag}")

    def play(self) -> None:
        """Run all sections."""
        try:
            for page, heading in SCRIPT:
                click.echo(f"--- {page}, {heading}")
                if before := _BEFORE.get(heading):
                    before(self)
                for written in commands(page, heading):
                    self._step(written)
                if after := _AFTER.get(heading):
                    after(self)
        except BaseException:
            click.echo(self.shell(_STATE, check=False), err=True)
            raise
        finally:
            self.end_forward()

    def _step(self, written: str) -> None:
        if why := why_left_out(written):
            click.echo(f"    left out: {written}\n      because {why}")
            return
        started = time.monotonic()
        command = self._placeholders.fill(written)
        click.echo(f"  $ {command}")
        next(step for beginning, step in STEPS.items() if written.startswith(beginning))(self, command)
        click.echo(f"    done in {time.monotonic() - started:.0f} s")

    def shell(self, command: str, *, check: bool = True) -> str:
        """Run a command as a user does, from the checkout, and return what it prints."""
        done = subprocess.run(
            ["bash", "-ec", command], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False,
            timeout=_COMMAND_S,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if check else f"{done.returncode} {done.stdout}{done.stderr}"

    def shows(self, command: str) -> None:
        """Run a command, and print the end of its output."""
        for line in self.shell(command).splitlines()[-6:]:
            click.echo(f"    {line[:200]}")

    # --- steps that are more than their command

    def roll_out(self, command: str) -> None:
        """Wait for the probes. Once they enforce for the first time, deploy web with its policy."""
        self.shows(command)
        if not self.real.pods("web"):
            self.real.apply(deployment("web", 2))
            self.real.wait_ready("web")
            guard(self.real)

    def test(self, command: str) -> None:
        """Run `helm test`, also again: it gives up after minutes, which is not enough on a busy machine."""
        self.shell(f"kubectl -n {SYSTEM} rollout status deploy/weir-streams")
        self.succeeds(command)

    def succeeds(self, command: str) -> None:
        """Run a command that says whether all is well, until it is."""
        wait_for(f"{command} to succeed", lambda: self.shell(command, check=False), lambda text: text.startswith("0 "))

    def observe(self, command: str) -> None:
        """Make traffic, and run `weir observe` until both verdicts are there, with pods and policy."""
        (stranger,) = self.real.pods("stranger")
        client, web = self.real.pods("client")[0], self.real.pods("web")[0]

        def look() -> str:
            assert self.real.connects(client, addresses(web)[0])
            assert self.real.gets_no_answer(stranger, addresses(web)[0])
            return self.shell(command)

        def named(text: str) -> bool:
            lines = [set(re.split(r"[\s/,]+", line)) for line in text.splitlines()]
            wanted = [{name(client), name(web), "allow"}, {name(stranger), name(web), "deny"}]
            return all(any(words | {"ingress", "web-from-client"} <= line for line in lines) for words in wanted)

        text = wait_for("both verdicts with their names", look, named)
        for line in [one for one in text.splitlines() if "web-from-client" in one][-4:]:
            click.echo(f"    {line[:200]}")

    def keep_token(self, command: str) -> None:
        """Make the viewer's token."""
        self._token = self.shell(command).strip()

    def forward(self, command: str) -> None:
        """Forward the page's port, and read the page: it wants the token, and has the records with the policy."""
        self.shell(f"kubectl -n {SYSTEM} rollout status deploy/weir-web")
        with (self.real.folder / "forward.log").open("wb") as log:
            self._forward = subprocess.Popen(
                ["bash", "-ec", f"exec {command}"], env=self._environment, stdout=log, stderr=log
            )
        wait_for("the page", lambda: get("/"), lambda found: found[0] == 200 and "kubeweir" in found[1])
        assert get("/api/flows?since=30m")[0] == 401
        question = f"/api/flows?since=30m&verdict=deny&namespace={NAMESPACE}"

        def named(found: tuple[int, str]) -> bool:
            return found[0] == 200 and any(
                one["isolated_by"] and one["isolated_by"][0]["name"] == "web-from-client"
                for one in json.loads(found[1])["flows"]
            )

        wait_for("the denied connection on the page", lambda: get(question, self._token), named)

    def uninstall(self, command: str) -> None:
        """Uninstall: at once everybody may connect, and nothing is on the nodes, without `weir-probe detach`."""
        self.shows(command)
        (stranger,) = self.real.pods("stranger")
        assert all(at_once(self.real.connects, all_pairs([stranger], self.real.pods("web"))))
        self._look_at_nodes()

    def remove_state(self, command: str) -> None:
        """Remove what kubeweir has kept on each node."""
        for node in self.real.nodes():
            assert self.real.on(node, "ls", "/var/lib/kubeweir").strip()
            self.real.on(node, *command.split())

    # --- around the sections

    def begin_traffic(self) -> None:
        """Have two pods connect all the time from here on."""
        self._loops = self._loops or Loops(self.real, self.real.pods("web"), self.real.pods("stranger")[0])
        self._before, self._sizes = self._loops.counts(), self._connections()

    def look_after_upgrade(self) -> None:
        """The table of connections is smaller, nothing was disturbed, and no verdict is missing."""
        wait_for("the new size", self._connections, lambda now: all(now[n] < self._sizes[n] for n in self._sizes))
        self._undisturbed()

    def look_after_rollback(self) -> None:
        """The table of connections has its size again, nothing was disturbed, and no verdict is missing."""
        wait_for("the old size", self._connections, lambda now: all(now[n] > self._sizes[n] for n in self._sizes))
        self._undisturbed()
        assert self._loops is not None
        self._loops.end()

    def look_after_uninstall(self) -> None:
        """Nothing of kubeweir is on the nodes or in the API; its topics are still in Kafka."""
        self._look_at_nodes()
        kinds = self.real.kubectl("api-resources", "--verbs=list", "-o", "name").split()
        kinds = [kind for kind in kinds if not kind.startswith("events")]
        found = self.real.kubectl("get", ",".join(kinds), "-A", "-o", "name", "--ignore-not-found").splitlines()
        left = [one for one in found if re.search(rf"weir(?!-node)|{SYSTEM}", one)]
        assert left == [], left
        assert 'topic "kubeweir.flows"' in self.shell(f"kcat -L -b {self.real.kafka}")

    def _look_at_nodes(self) -> None:
        for node in self.real.nodes():
            assert left_on(self.real, node) == []

    def _undisturbed(self) -> None:
        assert self._loops is not None
        loops, before, so_far = self._loops, self._before, numbers(self.real.records())
        until("more traffic", lambda: all(new["allowed"] > old["allowed"] + 20
              for old, new in zip(before, loops.counts(), strict=True)), _WAIT_S)  # fmt: skip
        loops.assert_undisturbed_since(before)
        wait_for("no verdict missing", lambda: missing_numbers(numbers(self.real.records()), so_far), lambda m: not m)
        assert not [one for one in self.real.records("status") if one.get("lost")]
        click.echo(f"    connections of the two pods: {before} before, {loops.counts()} now")

    def _connections(self) -> dict[str, float]:
        """Return the size of each node's table of connections that is in force; 0 while the probe does not answer."""
        return {node["metadata"]["name"]: _size(node) for node in self.real.get("nodes")["items"]}

    def end_forward(self) -> None:
        if self._forward is not None:
            self._forward.send_signal(signal.SIGINT)
            self._forward.wait()
            self._forward = None


def name(pod: Pod) -> str:
    """Return a pod's name."""
    return str(pod["metadata"]["name"])


def _size(node: Pod) -> float:
    address = next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")
    found = re.search(r'(?m)^kubeweir_probe_map_capacity_entries\{map="connections"\} (\S+)$',
                      get("/metrics", host=address, port=9701)[1])  # fmt: skip
    return float(found.group(1)) if found else 0.0


def get(path: str, token: str = "", host: str = "127.0.0.1", port: int = 9700) -> tuple[int, str]:
    """Return an answer, of the page unless it is said otherwise: its status, 0 if there is none, and its text."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()


def wait_for(what: str, look: Callable[[], Found], right: Callable[[Found], bool]) -> Found:
    """Look until what is found is right, and return it."""
    deadline = time.monotonic() + _WAIT_S
    while not right(found := look()):
        assert time.monotonic() < deadline, f"not after {_WAIT_S:.0f} s: {what}; last: {str(found)[-3000:]}"
        time.sleep(1)
    return found


STEPS: Final[dict[str, Callable[[Run, str], None]]] = {
    "kubectl create namespace ": Run.shows,
    "helm install kubeweir ": Run.shows,
    "kubectl -n kubeweir rollout status ds/weir-probe": Run.roll_out,
    "helm test kubeweir ": Run.test,
    "weir doctor ": Run.succeeds,
    "weir observe ": Run.observe,
    "kubectl -n kubeweir create serviceaccount ": Run.shows,
    "kubectl create clusterrolebinding ": Run.shows,
    "kubectl -n kubeweir create token ": Run.keep_token,
    "kubectl -n kubeweir port-forward ": Run.forward,
    "kubectl -n kubeweir set image ": Run.shows,
    "kubectl -n kubeweir rollout status deploy/weir-streams": Run.shows,
    "helm upgrade kubeweir ": Run.shows,
    "weir status ": Run.succeeds,
    "helm rollback kubeweir ": Run.shows,
    "kubectl -n kubeweir annotate ds/weir-probe ": Run.shows,
    "helm uninstall kubeweir ": Run.uninstall,
    "helm install kubeweir-detach ": Run.shows,
    "kubectl -n kube-system rollout status ds/weir-detach": Run.shows,
    "helm uninstall kubeweir-detach ": Run.shows,
    "kubectl delete namespace ": Run.shows,
    "kubectl delete clusterrolebinding ": Run.shows,
    "rm -r /var/lib/kubeweir": Run.remove_state,
}
"""How each command is run, by its beginning."""
_BEFORE: Final[dict[str, Callable[[Run], None]]] = {
    "Upgrade": Run.begin_traffic,
    "Roll back": Run.begin_traffic,
}
_AFTER: Final[dict[str, Callable[[Run], None]]] = {
    "Install": Run.end_forward,
    "Upgrade": Run.look_after_upgrade,
    "Roll back": Run.look_after_rollback,
    "Uninstall": Run.look_after_uninstall,
}
"""What else is done before and after a section."""
