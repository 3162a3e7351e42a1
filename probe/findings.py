"""Tells people what is not as it should be on the node: as lines of /readyz, and as warnings in the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from probe.admission import Admission
from probe.kernel.plan import Installed
from probe.lasting_warnings import LastingWarnings
from probe.pod_interfaces import STATES, PodInterfaces
from probe.policy.capacity import capacity_warnings

log = structlog.get_logger("kubeweir.probe")

_CLOSED_POD: Final = "pod is closed because not everything fits the maps"
_UNLISTED: Final = "the node holds more addresses than the maps do"
_UNLISTED_WHY: Final = (
    "the map has no room for them, and leaves out those of Services first: raise WEIR_LOCAL_ADDRESSES"
)


class Findings:
    """Reads what binding, attaching and installing found at their last pass."""

    def __init__(self, interfaces: PodInterfaces, admission: Admission) -> None:
        self._interfaces, self._admission = interfaces, admission
        self._warnings = LastingWarnings()

    def notes(self) -> list[str]:
        """Return every pod, exit and interface that is not enforced, kept or closed, a line each."""
        unlisted = self._admission.unlisted
        return [*(f"{STATES[event]}: {what}: {why}" for what, (event, why) in self._interfaces.states().items()),
                *(f"closed: pod {name}: {reason}" for name, reason in self._admission.incomplete.items()),
                *([f"left out: {unlisted} addresses of the node: {_UNLISTED_WHY}"] if unlisted else [])]  # fmt: skip

    def warn(self, usage: Mapping[str, tuple[int, int]], identities: int) -> None:
        """Log the warnings that are due. ``usage`` is (entries, limit) by the map's name."""
        current = self._interfaces.states()
        for name, reason in self._admission.incomplete.items():
            current[f"closed pod {name}"] = (_CLOSED_POD, reason)
        if self._admission.unlisted:
            current["addresses of the node"] = (_UNLISTED, f"{self._admission.unlisted}: {_UNLISTED_WHY}")
        self._warnings.report(current | capacity_warnings(usage, identities))


def log_installation(done: Installed, endpoints: int, policies: int) -> None:
    """Log what an installation changed, if anything."""
    if done.addresses or done.endpoints or done.policy_entries or done.port_entries:
        log.info(
            "policy installed", epoch=done.epoch, endpoints=endpoints, policies=policies,
            changed_addresses=done.addresses, changed_endpoints=done.endpoints,
            changed_policy_entries=done.policy_entries, changed_port_entries=done.port_entries,
        )  # fmt: skip
