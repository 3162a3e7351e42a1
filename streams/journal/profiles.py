"""Which profiles of pods there are: made of pods, one after the other, as the source observes them.

A profile has the workload's name, and the object that runs a pod may be observed after the pod. So a pod whose owner is
not known waits for two seconds; then it gets the profile that its own fields give, and another one if the
owner is observed later.

A profile is gone when no pod has had it for :data:`LINGER_NS`: a job that runs every minute does not make two entries
every minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from enrich.history.profile import profile_of
from enrich.index.cluster import Cluster, workload_key
from enrich.model import Name, Pod
from enrich.sources.versions import UNKNOWN
from enrich.wire.journal import PROFILE, JournalError, names_object, number_of, raw_state, refusal
from streams.journal.observed import Key, Observed

log = structlog.get_logger("kubeweir.streams")

LINGER_NS: Final = 3600 * 1_000_000_000
_OWNER_WAIT_NS: Final = 2 * 1_000_000_000
_OWNED: Final = frozenset({"ReplicaSet", "Job"})
"""Kinds of owners that the index knows, and that something else may own."""
_MAX_MADE: Final = 100_000
"""Profiles that are remembered by what they are made of."""


class Profiles:
    """The profiles of all pods. The threads of the source bring pods, the writer's thread settles them."""

    def __init__(
        self,
        cluster: Cluster,
        left_out: Collection[str],
        on_refused: Callable[[], object],
        linger_ns: int = LINGER_NS,
    ) -> None:
        """``cluster`` knows what owns a ReplicaSet or a Job. ``left_out``: labels that no profile has. ``on_refused``
        is called for each profile that is outside the bounds of an entry."""
        self._cluster, self._left_out, self._on_refused, self._linger_ns = cluster, left_out, on_refused, linger_ns
        self._lock = threading.Lock()
        self._pods: dict[Name, Pod] = {}
        self._waiting: dict[Name, tuple[Pod | None, int]] = {}
        """Pods to settle, and since when they wait for their owner (0: not yet); None: the pod is gone."""
        # The rest is the writer's thread's.
        self._profile_of: dict[Name, str] = {}
        self._unowned: dict[Name, Pod] = {}
        """Settled pods whose owner the index did not know."""
        self._profiles: dict[str, _Counted] = {}
        self._made: dict[object, _Made] = {}

    # --- the source's threads

    def listed(self, pods: Sequence[Pod]) -> None:
        """Take a complete list of the pods."""
        found = {pod.key: pod for pod in pods}
        with self._lock:
            for key in [key for key in self._pods if key not in found]:
                self._waiting[key] = (None, 0)
            for key, pod in found.items():
                self._put(key, pod)
            self._pods = found

    def set(self, pod: Pod) -> None:
        """Take a pod that was created or changed."""
        with self._lock:
            self._put(pod.key, pod)
            self._pods[pod.key] = pod

    def deleted(self, pod: Pod) -> None:
        """Take the end of a pod."""
        with self._lock:
            self._pods.pop(pod.key, None)
            self._waiting[pod.key] = (None, 0)

    def _put(self, key: Name, pod: Pod) -> None:
        before = self._pods.get(key)
        # A pod changes a dozen times while it starts, and nothing of that is in its profile.
        if before is None or key in self._waiting or not _is_alike(before, pod):
            self._waiting[key] = (pod, 0)

    # --- the writer's thread

    def settle(self, now_ns: int, *, patient: bool = True) -> list[Observed]:
        """Return the profiles that are new, and those that are gone, since the last call.

        ``patient``: whether pods may wait for their owners."""
        found: list[Observed] = []
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for key, pod in list(self._unowned.items()):
            if key not in waiting and self._is_owner_known(pod):
                waiting[key] = (pod, 0)
        late: dict[Name, tuple[Pod | None, int]] = {}
        for key, (changed, since_ns) in waiting.items():
            self._unowned.pop(key, None)
            if changed is not None and not self._is_owner_known(changed):
                if patient and now_ns - (since_ns or now_ns) < _OWNER_WAIT_NS:
                    late[key] = (changed, since_ns or now_ns)
                    continue
                self._unowned[key] = changed
            self._settle_one(key, changed, now_ns, found)
        with self._lock:
            # What has changed meanwhile counts.
            self._waiting = {**late, **self._waiting}
        self._end_unused(now_ns, found)
        return found

    def _is_owner_known(self, pod: Pod) -> bool:
        owner = pod.owner
        if owner is None or owner.kind not in _OWNED:
            return True
        return self._cluster.workload(workload_key(pod.namespace, owner)) is not None

    def _settle_one(self, key: Name, pod: Pod | None, now_ns: int, found: list[Observed]) -> None:
        before = self._profile_of.pop(key, None)
        if pod is not None and (made := self._make(pod)) is not None:
            number, state, refused = made
            self._profile_of[key] = number
            counted = self._profiles.get(number)
            if counted is None:
                counted = self._profiles[number] = _Counted(Key(PROFILE, pod.namespace, number))
                found.append(Observed(counted.key, "", state, UNKNOWN, now_ns, refused))
            counted.pods += 1
            counted.unused_since_ns = 0
        if before is not None:
            counted = self._profiles[before]
            counted.pods -= 1
            if not counted.pods:
                counted.unused_since_ns = now_ns

    def _end_unused(self, now_ns: int, found: list[Observed]) -> None:
        for number, counted in list(self._profiles.items()):
            if not counted.pods and now_ns - counted.unused_since_ns >= self._linger_ns:
                del self._profiles[number]
                found.append(Observed(counted.key, "", b"", UNKNOWN, now_ns))

    def _make(self, pod: Pod) -> _Made | None:
        """Return the profile of a pod; None if no entry can name it."""
        workload = self._cluster.workload_of(pod)
        runs = (workload.kind, workload.name) if workload else None
        parts = (pod.namespace, runs, tuple(sorted(pod.labels.items())), pod.ports, pod.host_network)
        made = self._made.get(parts)
        if made is None:
            profile = profile_of(pod, workload, self._left_out)
            number = number_of(profile)
            try:
                made = _Made(number, bytes(raw_state(profile)))
            except JournalError as error:
                self._on_refused()
                made = _Made(number, b"", refusal(error))
                log.error("the profile of a pod is not in the journal: it is outside the bounds of an entry",
                          pod=str(pod.key), error=made.refused)  # fmt: skip
                if not names_object(PROFILE, pod.namespace, number):
                    return None
            if len(self._made) >= _MAX_MADE:
                self._made.clear()
            self._made[parts] = made
        return made


class _Made(NamedTuple):
    """A profile, as :class:`streams.journal.observed.Observed` has it."""

    number: str
    state: bytes
    refused: str = ""


@dataclass(slots=True)
class _Counted:
    """A profile, and how many pods have it."""

    key: Key
    pods: int = 0
    unused_since_ns: int = 0


def _is_alike(one: Pod, other: Pod) -> bool:
    """Return whether two versions of a pod have the same profile."""
    return (
        one.labels == other.labels
        and one.owner == other.owner
        and one.ports == other.ports
        and one.host_network == other.host_network
    )
