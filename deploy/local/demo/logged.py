"""The demo's second act: what is logged changes while everything runs, and enforcement does not notice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pods import ATTEMPTS, POD_NAMES, Attempt, Pods
from stack import DemoError
from summary import records_of, sample

OBJECT = Path(__file__).with_name("logging.yaml")
NAMESPACE = "batch"
"""The only namespace of the manifests whose annotation asks for its denials to be logged."""
_AGAIN = tuple(attempt for attempt in ATTEMPTS if attempt.why in ("the web asks the API", "a customer at the API"))
"""What is tried when everything is logged again."""
_SETTLE_S = 30.0
_LOGGING = "kubeweir_probe_logging"
_CUT = "kubeweir_probe_cut_verdicts_total"

Flows = Sequence[Mapping[str, Any]]


class LoggingAct:
    """Puts a NetworkLogging beside the manifests, takes it away again, and checks each time what is logged."""

    def __init__(
        self, pods: Pods, manifests: Path, metrics: str, read: Callable[[], Flows], say: Callable[[str], None]
    ) -> None:
        """``metrics`` is the URL of the probe's metrics, and ``read`` returns every record of the topic of flows."""
        self._pods, self._metrics, self._read, self._say = pods, metrics, read, say
        self._object = manifests / OBJECT.name

    def play(self, before: Flows) -> list[str]:
        """Play it, and return what did not go as expected. ``before`` are the records of the same connections while
        everything was logged."""
        self._say("second act: what is logged. So far it was all; now a NetworkLogging is saved beside the manifests:")
        self._say(f"  allow: {{log: false}}, deny: {{log: true, delegate: true}}, and only namespace {NAMESPACE} asks")
        allowed, denied = self._cut()
        self._switch("delegated", lambda: shutil.copyfile(OBJECT, self._object))
        known = {flow["id"] for flow in before}
        wrong, found = self._connect(ATTEMPTS, [one for one in ATTEMPTS if _is_asked_for(one)], known)
        wrong += [f"logged without being asked for: {_shown(flow)}" for flow in found if not _is_of_asking(flow)]
        allowed, denied = (now - then for now, then in zip(self._cut(), (allowed, denied), strict=True))
        expected = sum(flow["disposition"] == "allow" for one in ATTEMPTS for flow in _of(one, before))
        if allowed != expected:
            wrong.append(f"{allowed} allowed verdicts were cut, and {expected} were logged before of the same")
        time.sleep(0.5)  # so that the last lines of the table come before this
        self._say(f"{2 * len(ATTEMPTS)} connections as before, and {len(found)} verdicts: the denials of {NAMESPACE}")
        self._say(f"cut in the kernel, and counted: {allowed} allowed verdicts, {denied} denied packets")
        self._say(f"the object is removed, and {2 * len(_AGAIN)} of the connections are made again:")
        self._switch("all", self._object.unlink)
        again, found = self._connect(_AGAIN, _AGAIN, known | {flow["id"] for flow in found})
        time.sleep(0.5)
        self._say(f"{len(found)} verdicts: everything is logged again")
        return wrong + again

    def _switch(self, denied: str, change: Callable[[], object]) -> None:
        """Change the manifests, wait until the kernel logs accordingly, and say how long it took. Raises DemoError."""
        begin = time.monotonic()
        change()
        while not sample(self._metrics, _LOGGING, verdicts="denied", logged=denied):
            if time.monotonic() > begin + _SETTLE_S:
                raise DemoError(f"after {_SETTLE_S:.0f} s it is not in force that denials are logged: {denied}")
            time.sleep(0.01)
        self._say(f"in force after {time.monotonic() - begin:.2f} s, without a restart\n")

    def _connect(
        self, attempts: Sequence[Attempt], logged: Sequence[Attempt], known: set[str]
    ) -> tuple[list[str], list[Mapping[str, Any]]]:
        """Make the connections, and return what did not go as expected, and the records that are not known yet, once
        there are some about all that are to be logged."""
        wrong = [f"{problem} in the second act" for problem in self._pods.attempt_all(attempts)]
        deadline = time.monotonic() + _SETTLE_S
        while True:
            found = [flow for flow in self._read() if flow["id"] not in known]
            missing = [one for one in logged for family in (4, 6) if not records_of(one, family, found)]
            if not missing or time.monotonic() > deadline:
                return wrong + [f"{one.why}: not logged in the second act" for one in missing], found
            time.sleep(0.2)

    def _cut(self) -> tuple[int, int]:
        """Return how many allowed and how many denied verdicts were not logged on purpose."""
        allowed, denied = (sample(self._metrics, _CUT, by="logging", verdicts=one) for one in ("allowed", "denied"))
        return allowed, denied


def _of(attempt: Attempt, flows: Flows) -> list[Mapping[str, Any]]:
    return [flow for family in (4, 6) for flow in records_of(attempt, family, flows)]


def _is_asked_for(attempt: Attempt) -> bool:
    """Return whether the pod that denies is in the namespace that asks: in the demo, always the client."""
    return not attempt.allowed and POD_NAMES.get(attempt.source, "").startswith(f"{NAMESPACE}/")


def _is_of_asking(flow: Mapping[str, Any]) -> bool:
    subject = flow["src" if flow["connection"]["direction"] == "egress" else "dest"]
    return bool(flow["disposition"] == "deny" and subject.get("namespace") == NAMESPACE)


def _shown(flow: Mapping[str, Any]) -> str:
    return f"{flow['disposition']} {flow['connection']}"
