"""The epochs' side of the account: whether the status topic says which policies were in force on a node, and when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from tests.custody.policies import Policy
from tests.custody.records import nanoseconds
from tests.custody.script import Script

MARKER: Final = "marker-"
"""How the names of policies begin that select no pod with traffic."""
_LASTING: Final = frozenset({"client", "server"})
"""Labels of which each node always has a pod. Of the others it is not known when their node has one."""
_CLOCK_NS: Final = 20_000_000


def epoch_differences(script: Script, records: Iterable[dict[str, Any]]) -> list[str]:
    """Compare records of type ``policies`` with the script: names, UIDs and versions, at the time of each switch."""
    found: list[str] = []
    versions: dict[str, Policy] = {}
    for record in records:
        named = {one["name"]: one for one in record["policies"] if not one["name"].startswith(MARKER)}
        text = f"epoch {record['epoch']} of {record['node']}"
        found += [
            f"{text}: {name} has the UID {one['uid']}" for name, one in named.items() if one["uid"] != f"uid-{name}"
        ]
        if record["left_out"]:
            found.append(f"{text}: {record['left_out']} policies were left out")
        if "in_force" not in record:
            continue
        first, last = (nanoseconds(at) for at in record["in_force"])
        if last < script.changes[0].asked:
            continue  # the script begins when all of its policies are in force
        states = script.states(first - _CLOCK_NS, last + _CLOCK_NS, record["node"])
        right = [state for state in states if _fits(named, state)]
        if not right:
            found.append(
                f"{text} stands for {sorted(named)} at {first}, in truth one of {list(map(sorted_names, states))}"
            )
        if len(states) == 1 and right:
            for policy in right[0]:
                version = named.get(policy.name, {}).get("version")
                if version is not None and versions.setdefault(version, policy) != policy:
                    found.append(f"{text}: version {version} is {policy} and {versions[version]}")
    if len(set(versions.values())) != len(versions):
        found.append(f"one policy has several versions: {versions}")
    return found


def sorted_names(state: Iterable[Policy]) -> list[str]:
    """Return the names of policies in their order."""
    return sorted(policy.name for policy in state)


def _fits(named: dict[str, Any], state: frozenset[Policy]) -> bool:
    """Return whether these can be what a node has in force of a state: all of its lasting pods, some of the others."""
    lasting = {policy.name for policy in state if policy.app in _LASTING}
    return lasting <= named.keys() <= {policy.name for policy in state}
