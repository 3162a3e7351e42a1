"""Changes of policy, one after the other, each until the probe says that it is in force."""

from __future__ import annotations

import random
import threading
import time
from datetime import datetime
from typing import Any, Final

from tests.custody.ground import Ground
from tests.custody.nodes import installed
from tests.custody.packets import SCTP, TCP, UDP
from tests.custody.policies import Direction, Policy, Ports, Rule
from tests.custody.script import NAMESPACE, NODES, Change

_LOW: Final = (Ports(TCP, 8001, 8003), Ports(UDP, 9001, 9002), Ports(SCTP, 7001, 7001))
_HIGH: Final = (Ports(TCP, 8101, 8101), Ports(UDP, 9101, 9101))
_WORLD: Final = ("198.51.100.0/24", "2001:db8:7::/64")
_MENU: Final[dict[str, tuple[str, Direction, tuple[Rule, ...], tuple[Rule, ...]]]] = {
    "client-out-pods": ("client", "egress", (Rule(("server", "churn", "client")),), (Rule(("server",), ports=_LOW),)),
    "client-out-world": ("client", "egress", (Rule(blocks=_WORLD, ports=_LOW),), (Rule(blocks=_WORLD),)),
    "client-in": ("client", "ingress", (Rule(("server", "churn")),), (Rule(ports=_HIGH), Rule(("churn",)))),
    "server-in-clients": ("server", "ingress", (Rule(("client", "server"), ports=_LOW),), (Rule(("client",)),)),
    "server-in-all": ("server", "ingress", (Rule(),), (Rule(ports=_LOW),)),
    "server-in-high": ("server", "ingress", (Rule(("client", "churn"), ports=_HIGH),), (Rule(ports=_HIGH),)),
    "server-in-world": ("server", "ingress", (Rule(blocks=_WORLD),), (Rule(blocks=_WORLD[:1], ports=_LOW),)),
    "churn-in": ("churn", "ingress", (Rule(("client",)),), (Rule(("client", "server"), ports=_LOW),)),
    "churn-out": ("churn", "egress", (Rule(("server",), ports=_LOW),), (Rule(("server", "client")), Rule(ports=_HIGH))),
}
"""What policies there can be: whom they select, and their rules in two versions."""
_MARKERS: Final = 7
_PATIENCE_S: Final = 5.0
_MAX_MARKS: Final = 36
"""After three minutes beside those that a probe was away it has ended, or does not install any more."""
_TAIL_BYTES: Final = 1 << 15


class Desk:
    """The only place that changes policies.

    A probe logs how many policies there are when it has installed a change. So each change ends with policies of a
    pod without traffic ("markers"), added or removed until there are as many as there were not since before the
    change. Changes are seen in their order, so a node's first such line says that all of it is in force there.
    """

    def __init__(self, ground: Ground, seed: int) -> None:
        self._ground, self._chance = ground, random.Random(f"{seed}/policies")  # noqa: S311 - a seed repeats it
        self._lock = threading.Lock()
        self._policies: dict[str, Policy] = {}
        self._markers = 0
        self.flips = 0
        chosen = self._chance.sample(sorted(_MENU), len(_MENU) // 2)
        self._change({name: self._version(name) for name in chosen})
        # Probes on a busy machine install them one by one: those states are not the script's.
        begun = time.time_ns()
        ground.script.changes[:] = [Change(begun, dict.fromkeys(NODES, begun), frozenset(self._policies.values()))]

    def flip(self) -> None:
        """Add, change or remove one policy, and wait until that is in force."""
        name = self._chance.choice(sorted(_MENU))
        version = None if name in self._policies and self._chance.random() < 0.5 else self._version(name)
        self._change({name: version})
        self.flips += 1

    def confirm(self) -> None:
        """Wait until everything is in force that the probe can have seen by now."""
        self._change({})

    def _version(self, name: str) -> Policy:
        app, direction, *rules = _MENU[name]
        others = [one for one in rules if name not in self._policies or one != self._policies[name].rules]
        return Policy(name, app, direction, self._chance.choice(others))

    def _change(self, changes: dict[str, Policy | None]) -> None:
        with self._lock:
            visited = {len(self._policies) + self._markers}
            asked = time.time_ns()
            for name, policy in changes.items():
                if policy is None:
                    self._policies.pop(name)
                    self._ground.api.delete("NetworkPolicy", name)
                else:
                    self._policies[name] = policy
                    self._put(name, policy.spec())
                visited.add(len(self._policies) + self._markers)
            in_force: dict[str, int] = {}
            for _ in range(_MAX_MARKS):
                self._mark(visited, asked, in_force)
                if len(in_force) == len(NODES):
                    break
            else:
                missing = [name for name in NODES if name not in in_force]
                raise RuntimeError(f"the probes of {missing} have not said that a change of policy is in force")
            self._ground.script.changes.append(Change(asked, in_force, frozenset(self._policies.values())))

    def _mark(self, visited: set[int], asked: int, in_force: dict[str, int]) -> None:
        """Move to a number of policies that was not visited, and note for each node when its probe has said so.

        A probe that is killed between the switch and the line says nothing, and the next one finds nothing to do.
        """
        upwards = self._markers < _MARKERS and (self._markers == 0 or self._chance.random() < 0.5)
        # There are more numbers than were visited, however often a probe has to be asked again.
        most = 2 * _MARKERS + len(visited)
        while (total := len(self._policies) + self._markers) in visited:
            if upwards and self._markers == most:
                upwards = False
            if not upwards and self._markers == 0:
                upwards = True
            if upwards:
                self._put(f"marker-{self._markers}", _marker(self._markers))
                self._markers += 1
            else:
                self._markers -= 1
                self._ground.api.delete("NetworkPolicy", f"marker-{self._markers}")
        visited.add(total)
        nodes = self._ground.nodes.values()
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and len(in_force) < len(NODES):
            for node in nodes:
                if node.name not in in_force:
                    found = (logged_ns(line) for line in installed(node, _TAIL_BYTES) if line["policies"] == total)
                    if at := next((at for at in found if at >= asked), None):
                        in_force[node.name] = at + 1000
            if any(node.away.is_set() and node.name not in in_force for node in nodes):
                deadline = time.monotonic() + _PATIENCE_S
            time.sleep(0.02)

    def _put(self, name: str, spec: dict[str, Any]) -> None:
        meta = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"}
        self._ground.api.set("NetworkPolicy", meta, spec=spec)


def logged_ns(line: dict[str, Any]) -> int:
    """Return the time of a log line, in nanoseconds of the wall clock."""
    return round(datetime.fromisoformat(line["timestamp"]).timestamp() * 1e6) * 1000


def _marker(number: int) -> dict[str, Any]:
    ports = (Ports(TCP, 100 + number, 100 + number),)
    return Policy("", "marker", "ingress", (Rule(ports=ports),)).spec()
