"""The demo's last act: policies recommended from what was seen, and a change that is judged by it before it is made.

Both are then really in force, and the same connections are made again: what was foretold has to happen, and nothing
else.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pods import ADDRESSES, ATTEMPTS, POD_NAMES, REPORT, WEB, Attempt, Pods
from stack import HOME, ROOT, DemoError, script
from summary import records_of, sample

NAMESPACE = "shop"
"""The namespace that gets recommended policies in place of its own."""
PROPOSAL = Path(__file__).with_name("proposal.yaml")
_COUNTED = "kubeweir_streams_pairs_counted_verdicts_total"
_SETTLE_S = 30.0
_FAMILIES = (4, 6)
_ASKS_API = next(one for one in ATTEMPTS if one.source == WEB and one.allowed)
_RESOLVES = next(one for one in ATTEMPTS if one.source == REPORT and one.allowed)

Flows = Sequence[Mapping[str, Any]]
Tried = tuple[Attempt, int]
"""A connection over IPv4 or IPv6."""


@dataclass(frozen=True)
class Desk:
    """What the act needs of the demo."""

    pods: Pods
    manifests: Path
    streams: str
    """The URL of the metrics of weir-streams."""
    env: Mapping[str, str]
    """The environment of the command ``weir``."""
    read: Callable[[], Flows]
    """Returns every record of the topic of flows."""
    say: Callable[[str], None]


class PastAct:
    """Asks about the past, then makes it so."""

    def __init__(self, desk: Desk, since: str) -> None:
        """``since``: when the demo's first connection was made."""
        self._desk, self._since = desk, since
        self._policies = desk.manifests / "policies.yaml"
        self._original = self._policies.read_text()
        self._recommended = desk.manifests / f"{NAMESPACE}.yaml"

    def play(self, before: Flows) -> list[str]:
        """Play it, and return what did not go as expected. ``before`` are the records of what was seen so far."""
        self._desk.say("last act: the past. It is kept as counts of connections, and as each version of a policy")
        self._wait_until_counted(len(before))
        wrong = self._apply_recommendation() + self._apply_proposal()
        self._restore()
        return wrong

    def _apply_recommendation(self) -> list[str]:
        say, folder = self._desk.say, HOME / "recommended"
        say(f"which policies would allow just what was seen? (weir recommend -n {NAMESPACE})\n")
        done = self._weir("recommend", "-n", NAMESPACE, "--output-dir", str(folder))
        text = (folder / self._recommended.name).read_text() if done.returncode == 0 else ""
        for line in _rules(text):
            print(f"  {line}")
        print()
        for line in done.stderr.splitlines():
            if "proof: " in line:
                say(line.split(": ", 2)[2])
        if done.returncode:
            return [f"weir recommend ended with {done.returncode}: {done.stderr}"]
        others = [one for one in _documents(self._original) if one["metadata"]["namespace"] != NAMESPACE]
        say(f"the {len(_documents(self._original)) - len(others)} policies of {NAMESPACE} are replaced by these:")
        # First the new ones, then without the old ones, so that no moment is open.
        _replace(self._recommended, text)
        _replace(self._policies, yaml.safe_dump_all(others))
        self._wait_for("the recommended policies are in force", lambda: self._is_named(_ASKS_API, "seen-web"))
        return self._try({})

    def _apply_proposal(self) -> list[str]:
        say, shown = self._desk.say, PROPOSAL.relative_to(ROOT)
        say(f"somebody proposes another batch/only-dns. What would it have denied? (weir backtest {shown})\n")
        forms = [("backtest", str(shown)), ("backtest", str(shown), "-o", "json")]
        with ThreadPoolExecutor(len(forms)) as threads:
            table, machine = threads.map(lambda arguments: self._weir(*arguments), forms)
        print(table.stdout.rstrip("\n"), "\n", sep="\n", end="", flush=True)
        foretold = dict.fromkeys(_denied(json.loads(machine.stdout)), False) if machine.returncode == 1 else {}
        if table.returncode != 1 or not foretold:
            return [f"weir backtest ended with {table.returncode}: {table.stderr}{machine.stderr}"]
        say(f"its exit code 1 would stop a pipeline. For the proof, {PROPOSAL.name} is put in force all the same:")
        others = [one for one in _documents(self._policies.read_text()) if one["metadata"]["name"] != "only-dns"]
        _replace(self._policies, yaml.safe_dump_all([*others, *_documents(PROPOSAL.read_text())]))
        self._wait_for("the proposal is in force", lambda: not self._desk.pods.attempt(_RESOLVES, 4))
        return self._try(foretold)

    def _try(self, foretold: Mapping[Tried, bool]) -> list[str]:
        """Make all connections again, and return which of them did not go as foretold, or as before."""
        answered = self._desk.pods.attempt_at_once(ATTEMPTS)
        wrong = [
            f"{one.why} over IPv{family} {'got through' if found else 'got no answer'} in the last act"
            for (one, family), found in answered.items()
            if found != foretold.get((one, family), one.allowed)
        ]
        if not wrong and foretold:
            names = " and ".join(dict.fromkeys(one.why for one, _ in foretold))
            self._desk.say(f"denied as foretold: {names}, {len(foretold)} connections")
        if not wrong:
            others = [found for tried, found in answered.items() if tried not in foretold]
            which = f"the other {len(others)}" if foretold else f"{len(others)}"
            allowed = sum(others)
            self._desk.say(f"{which} connections go as before: {allowed} are allowed, {len(others) - allowed} denied")
        return wrong

    def _restore(self) -> None:
        _replace(self._policies, self._original)
        self._wait_for("the first policies are in force again", lambda: self._desk.pods.attempt(_RESOLVES, 4))
        self._recommended.unlink(missing_ok=True)

    def _is_named(self, attempt: Attempt, policy: str) -> bool:
        """Make a connection and return whether a record about such a one names the policy."""
        self._desk.pods.attempt(attempt, 4)
        found = records_of(attempt, 4, self._desk.read())
        return any(one["name"] == policy for flow in found for one in flow["policies"])

    def _wait_until_counted(self, verdicts: int) -> None:
        self._wait_for(f"{verdicts} verdicts are counted", lambda: sample(self._desk.streams, _COUNTED) >= verdicts)
        time.sleep(0.5)  # counts are noted right before they are written

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises DemoError."""
        deadline = time.monotonic() + _SETTLE_S
        while not condition():
            if time.monotonic() > deadline:
                raise DemoError(f"after {_SETTLE_S:.0f} s it is not so that {what}")
            time.sleep(0.1)

    def _weir(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [script("weir"), *arguments, "--since", self._since]
        return subprocess.run(
            command, env=dict(self._desk.env), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )


def _documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def _replace(file: Path, text: str) -> None:
    """Write a file in one step, so that nobody reads a part of it."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(text)
    fresh.replace(file)


def _rules(text: str) -> list[str]:
    """Return the comments that say of whom each policy is, and the evidence of its rules."""
    found = (line.strip() for line in text.splitlines())
    return [line.removeprefix("# ") if line.startswith("# for ") else f"  {line.removeprefix('# ')}"
            for line in found if line.startswith(("# for ", "# from ", "# to "))]  # fmt: skip


def _denied(found: Mapping[str, Any]) -> list[Tried]:
    """Return the demo's connections that a backtest says would be denied."""
    denied = [one for one in found["findings"] if one["outcome"] == "newly denied"]
    return [
        (attempt, family)
        for attempt in ATTEMPTS
        for family in _FAMILIES
        if any(_is_about(one, attempt, family) for one in denied)
    ]


def _is_about(finding: Mapping[str, Any], attempt: Attempt, family: int) -> bool:
    """Return whether a finding about an outgoing connection is about this one, to an address outside the cluster."""
    namespace = POD_NAMES.get(attempt.source, "").split("/", maxsplit=1)[0]
    address = ADDRESSES[attempt.destination][_FAMILIES.index(family)]
    return bool(
        finding["direction"] == "egress"
        and finding["subject"].get("namespace") == namespace
        and finding["peer"].get("block", "").split("/")[0] == address
        and (finding["protocol"], finding.get("port", 0)) == (attempt.protocol, attempt.port)
    )
