"""The digest of a rule: one alert for all groups beyond those that may fire at once.

THEORY OF OPERATION

Example: WEIR_ALERT_FIRING is 50, and a scanner is denied by 2,000 workloads. The rule ``first-deny`` has a group for
each of them.

1. The first 50 groups get an alert each.
2. The 51st begins the digest. It collects for 10 seconds and then fires: one alert, with the number of groups so far.
3. As long as the digest is active, every further group is counted in it, even if one of the 50 alerts is resolved. So
   an attack that lasts for hours makes 51 notifications, not 50 in every few minutes.
4. The digest is resolved when no group was added for ``resolve_after``. The record then says how many there were.

The group of a digest has the cluster of its first member and ``*`` as the value of every other field, and its labels
have ``digest="true"``. Every worker may have a digest of its own. So that no two write one state, a worker chooses a
group (``*``, ``*1``, ``*2``, ...) whose state is in one of its own partitions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

from streams.alerts.alert import Alert, AlertState, digest_record, from_state, resolved_record, to_state
from streams.alerts.counting import MAX_EXAMPLES
from streams.alerts.deltas import fingerprint
from streams.alerts.model import AlertRule
from streams.alerts.outbox import Outbox
from streams.config.fields import seconds

_COLLECT_S: Final = 10.0
_MAX_COUNTED: Final = 10_000
"""Groups that are counted exactly; a digest of more says so many."""
_ANY: Final = "*"


def is_digest(group: Sequence[str]) -> bool:
    """Return whether a group is that of a digest."""
    last = group[1:] or group
    return bool(last) and last[0].startswith(_ANY) and all(value == _ANY for value in last[1:])


class Digest:
    """The digests of one rule in one worker: its own, and those that came with the partitions of others."""

    def __init__(self, rule: AlertRule, version: str) -> None:
        self.owns: Callable[[str], bool] = lambda _: True
        """Whether the state of a group, given by its fingerprint, is in a partition of this worker."""
        self._rule, self._version, self._resolve_s = rule, version, seconds(rule.resolve_after)
        self._alerts: dict[tuple[str, ...], Alert] = {}
        self._groups: set[str] = set()

    @property
    def active(self) -> bool:
        """Whether groups are counted here."""
        return bool(self._alerts)

    @property
    def firing(self) -> int:
        """The number of digests that fire."""
        return sum(alert.status == "firing" for alert in self._alerts.values())

    def load(self, state: AlertState, now: float) -> None:
        """Restore a digest."""
        alert = self._alerts[tuple(state.group)] = from_state(state, now)
        found = (alert.record or {}).get("count")
        alert.count = found if isinstance(found, int) else 0

    def add(self, member: Alert, now: float, out: Outbox) -> None:
        """Count the group of an alert that does not fire by itself."""
        digest = next(iter(self._alerts.values()), None)
        if digest is None:
            group = self._own_group(member.group[0])
            digest = self._alerts[group] = Alert(group, "pending", now, member.started, now)
            self._store(digest, to_state(self._rule, digest), out)
        name = fingerprint(self._rule.name, member.group)
        if name not in self._groups and len(self._groups) < _MAX_COUNTED:
            self._groups.add(name)
            digest.count += 1
        digest.last_true = now
        digest.examples = [*digest.examples, *member.examples[:1]][:MAX_EXAMPLES]

    def tick(self, now: float, out: Outbox) -> None:
        """Fire digests that have collected, and resolve those that are quiet."""
        for digest in list(self._alerts.values()):
            if digest.status == "pending" and now - digest.since >= _COLLECT_S:
                digest.status = "firing"
                digest.record = digest_record(self._rule, digest, now)
                digest.examples = []
                out.alerts.append(digest.record)
                self._store(digest, to_state(self._rule, digest), out)
            elif digest.status == "firing" and now - digest.last_true >= self._resolve_s:
                assert digest.record is not None  # noqa: S101 - it fired
                out.alerts.append(resolved_record({**digest.record, "count": digest.count}, now, "quiet"))
                del self._alerts[digest.group]
                self._groups.clear()
                self._store(digest, None, out)

    def clock_set_back(self, now: float) -> None:
        """Forget times that are in the future."""
        for digest in self._alerts.values():
            digest.since, digest.last_true = min(digest.since, now), min(digest.last_true, now)

    def _own_group(self, cluster: str) -> tuple[str, ...]:
        fields = len(self._rule.fields)
        for number in itertools.count():
            last = (f"{_ANY}{number or ''}", *(_ANY,) * (fields - 2))
            group = (cluster, *last) if fields > 1 else last
            if self.owns(fingerprint(self._rule.name, group)):
                return group
        raise AssertionError("the numbers have no end")

    def _store(self, digest: Alert, state: AlertState | None, out: Outbox) -> None:
        out.states.append((self._rule.name, fingerprint(self._rule.name, digest.group), state))
