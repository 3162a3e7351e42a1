"""One alert for all groups whose records began with the same change of a policy.

THEORY OF OPERATION

Example: at 12:00:00 NetworkPolicy shop/allow-api is updated, and forty pairs of workloads are denied from 12:00:02 on.

1. The first of them begins the alert of this change. It waits for 15 seconds, in which the other pairs arrive. That it
   waits is stored, so that a restart does not forget it.
2. It fires: one record that names the change and who made it, counts the pairs, and lists those with the most denied
   packets.
3. While it fires, further pairs of the same change are added to it. It is resolved when none of its pairs was denied
   for ``resolve_after``; the record then says how many there were in all.

The group of such an alert is the cluster, the policy and the time of the change. A fourth value, which no record shows,
is chosen so that the state lies in the partition to which all deltas of the cluster for the rule go.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from streams.alerts.alert import Alert
from streams.alerts.deltas import MAX_VALUE_LENGTH, fingerprint
from streams.alerts.example import Example
from streams.alerts.model import AlertRule
from streams.alerts.policy_changes import PolicyChange
from streams.timestamps import rfc3339

COLLECT_S: Final = 15.0
"""How long an alert waits for further pairs before it fires."""
NAMES: Final = ("cluster", "policy", "changed_at")
GROUP_LENGTH: Final = len(NAMES) + 1
_MAX_PAIRS: Final = 10_000
"""Pairs that are counted exactly; a change of more says so many."""
_SAME_CHANGE_S: Final = 30.0
_LISTED: Final = 10
_EXPLAINED: Final = 3
_NAMED: Final = re.compile(r"[A-Za-z]{1,63}(/[a-z0-9][-a-z0-9.]{0,252}){1,2}")
_SEVERAL: Final = "several"
Pair = tuple[str, ...]


@dataclass(slots=True)
class ChangeAlert:
    """The alert of one change, and the pairs that it is about."""

    alert: Alert
    amounts: dict[Pair, int] = field(default_factory=dict)

    def add(self, pair: Pair, amount: int, started: float, latest: float) -> None:
        """Note how much of a pair was denied in all since it began."""
        if pair in self.amounts or len(self.amounts) < _MAX_PAIRS:
            self.alert.count += amount - self.amounts.get(pair, 0)
            self.amounts[pair] = amount
        self.alert.started = min(self.alert.started, started)
        self.alert.last_true = max(self.alert.last_true, latest)

    def is_of(self, cluster: str, change: PolicyChange) -> bool:
        """Return whether it is about a change, or about one of the same policy a moment before or after: each worker
        notes its own time of a change, and the next owner of the partition must find the alert of the one before."""
        of_cluster, policy, changed_at, *_ = self.alert.group
        if (of_cluster, policy) != (cluster, change.policy[:MAX_VALUE_LENGTH]):
            return False
        try:
            return abs(datetime.fromisoformat(changed_at).timestamp() - change.at) <= _SAME_CHANGE_S
        except ValueError:
            return False  # whoever may write the state chooses it

    def ended(self, rule: AlertRule) -> dict[str, Any]:
        """Return the record with all pairs, if not fewer are known than when it fired: a restart forgets some."""
        record = self.alert.record or {}
        total = record.get("pairs_total")
        if not self.amounts or (isinstance(total, int) and total > len(self.amounts)):
            return record
        return {**record, **self.fields(rule), "count": self.alert.count}

    def worst(self) -> list[tuple[Pair, int]]:
        """Return the pairs of which the most was denied."""
        return sorted(self.amounts.items(), key=lambda one: (-one[1], one[0]))[:_LISTED]

    def fields(self, rule: AlertRule) -> dict[str, Any]:
        """Return what the record says beside what every alert's has."""
        listed = [{**dict(zip(rule.fields, pair, strict=True)), "count": count} for pair, count in self.worst()]
        return {"pairs": listed, "pairs_total": len(self.amounts)}

    def values(self, rule: AlertRule, examples: Iterable[Example]) -> dict[str, str]:
        """Return the values of the fields that templates may name. One that pairs differ in is ``several``."""
        found = dict.fromkeys(rule.fields, "") | {
            name: values.pop() if len(values) == 1 else _SEVERAL
            for name, values in zip(rule.fields, map(set, zip(*self.amounts, strict=True)), strict=False)
        }
        worst = "; ".join(f"{_text(pair)} ({count:,})" for pair, count in self.worst())
        lines = list(dict.fromkeys(line for one in examples if (line := explain_line(one))))[:_EXPLAINED]
        return {
            **found,
            "policy": self.alert.policy,
            "change": self.alert.change,
            "changed_by": self.alert.changed_by or "somebody who is not known",
            "pairs": f"{len(self.amounts):,}",
            "worst": worst,
            "explain": "; ".join(lines),
            "backtest": backtest_line(self.alert.policy, self.alert.change),
        }


def group_of(rule: AlertRule, cluster: str, change: PolicyChange, home: Callable[[str], int]) -> tuple[str, ...]:
    """Return the group of the alert of a change. ``home`` returns the partition of a fingerprint."""
    own_home = home(fingerprint(rule.name, (cluster,)))
    visible = (cluster, change.policy[:MAX_VALUE_LENGTH], rfc3339(change.at))
    for number in itertools.count():
        group = (*visible, str(number))
        if home(fingerprint(rule.name, group)) == own_home:
            return group
    raise AssertionError("the numbers have no end")


def visible_group(group: Sequence[str]) -> Mapping[str, str]:
    """Return the part of a group that records show."""
    return dict(zip(NAMES, group, strict=False))


def explain_line(example: Example) -> str:
    """Return the command that explains a record; empty if it cannot be asked about."""
    connection = example.connection
    ends = example.src.text(connection.src_ip), example.dest.text(connection.dest_ip)
    if connection.dest_port is None or not all("/" in end or "." in end or ":" in end for end in ends):
        return ""
    destination = f"[{ends[1]}]" if ":" in ends[1] else ends[1]
    protocol = "" if connection.protocol == "tcp" else f"/{connection.protocol.upper()}"
    return f"weir explain {ends[0]} {destination}:{connection.dest_port}{protocol}"


def backtest_line(policy: str, change: str) -> str:
    """Return the command that says what the last hour would have been like without a policy; of one that was deleted,
    with the file of its earlier version. Empty if it cannot be asked about."""
    if change == "deleted":
        return "weir backtest FILE --since 1h"
    named = policy.replace(" ", "/")
    # Whoever may write the state of alerts chooses the text, and somebody will paste the line.
    return f"weir backtest --delete {named} --since 1h" if _NAMED.fullmatch(named) else ""


def _text(pair: Pair) -> str:
    """Return a pair without its cluster, and without what it does not have."""
    return " ".join(value for value in pair[1:] if value) or "-"
