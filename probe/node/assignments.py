"""Which interface the CNI plugin has assigned to which pod: certain, and known before the pod's first process runs.

An assignment is made by the plugin's ADD, and ends by its DEL or when the interface is gone. It is written to a file in
the folder that lives as long as the pins before a pass takes it up, so that the next probe knows it too.

The pod of an assignment is the API's object, with the addresses that the plugins before ours have given: the API server
publishes them only after the pod has started. A static pod is known to kubelet by another UID than its mirror pod is to
the API server; the mirror pod may be deleted and made again while the containers run on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from enrich.model import Pod
from enrich.runtime.state_file import DamagedError, read_state, replace_state, set_aside
from probe.node.stored_pod import check_pod

log = structlog.get_logger("kubeweir.probe")


class Assignment(msgspec.Struct, frozen=True):
    """One interface of one pod's sandbox."""

    index: Annotated[int, msgspec.Meta(gt=0, lt=1 << 31)]
    """Interface index of the host's end."""
    container: str
    """Id of the sandbox."""
    interface: str
    """Name inside the pod's network namespace."""
    uid: str
    """The pod's UID as kubelet knows it; empty if the runtime does not say it."""
    pod: Pod
    """The newest known object, with the addresses that CNI has given."""


_decode = msgspec.json.Decoder(list[Assignment]).decode


class Assignments:
    """The assignments of this node, for any number of threads."""

    def __init__(self, path: Path) -> None:
        """Read what the last probe wrote to ``path``, if it did."""
        self._path = path
        self._by_index = _read(path)
        self._enforced: dict[int, Pod] = {}
        self._made_ns: dict[int, int] = {}
        self._made: dict[int, tuple[Pod, Pod]] = {}
        """The API's object of each assigned pod, and the one with CNI's addresses: the compiler compares objects."""
        self._changed = threading.Condition()

    def assign(self, assignment: Assignment) -> None:
        """Add an assignment, in place of an earlier one of the interface. Raises OSError."""
        with self._changed:
            before = self._by_index.get(assignment.index)
            if before == assignment:
                return
            self._by_index[assignment.index] = assignment
            self._made.pop(assignment.index, None)
            self._made_ns[assignment.index] = time.time_ns()
            try:
                self._save()
            except OSError:
                # Not assigned: after a crash it would be unknown.
                del self._by_index[assignment.index]
                raise

    def end(self, container: str, interface: str) -> bool:
        """End an assignment, and return whether there was one. Its interface stays bound until it is gone."""
        with self._changed:
            found = self._find(container, interface)
            if found is None:
                return False
            self._drop({found.index})
            return True

    def forget(self, is_over: Callable[[int], bool], before_ns: int) -> None:
        """Drop the assignments of interfaces that are gone, of those that were made before a moment.

        What is newer than a read of the network is not in it. The last probe's were made at 0.
        """
        with self._changed:
            over = {index for index in self._by_index if self._made_ns.get(index, 0) < before_ns and is_over(index)}
            if over:
                self._drop(over)

    def pods(self, known: Iterable[Pod]) -> dict[int, Pod]:
        """Return the pod of each assigned interface; of each the newest object, if it is among the node's pods."""
        with self._changed:
            if not self._by_index:
                return {}
            by_uid: dict[str, Pod] = {}
            for pod in known:
                by_uid[pod.uid] = pod
                if pod.static_uid:
                    by_uid[pod.static_uid] = pod
            found = {}
            for index, assignment in self._by_index.items():
                newest = by_uid.get(assignment.uid or assignment.pod.uid)
                if newest is None or newest.key != assignment.pod.key:
                    newest = by_uid.get(assignment.pod.uid, assignment.pod)
                if index not in self._made or self._made[index][0] is not newest:
                    self._made[index] = newest, with_addresses(newest, assignment.pod.ips)
                found[index] = self._made[index][1]
            return found

    def settle(self, enforced: Mapping[int, Pod]) -> None:
        """Take the pods whose policy is in force on their interfaces, and wake who waits for that."""
        with self._changed:
            self._enforced = {index: enforced[index] for index in self._by_index.keys() & enforced.keys()}
            self._changed.notify_all()

    def is_enforced(self, container: str, interface: str) -> int | None:
        """Return the interface's index if it is assigned and under its pod's policy."""
        with self._changed:
            found = self._find(container, interface)
            return found.index if found and self._covers(found) else None

    def wait(self, assignment: Assignment, deadline: float) -> bool:
        """Wait until the assigned pod's policy is in force on the interface; False at the deadline (monotonic)."""
        with self._changed:
            return self._changed.wait_for(lambda: self._covers(assignment), max(0.0, deadline - time.monotonic()))

    def __len__(self) -> int:
        return len(self._by_index)

    def _covers(self, assignment: Assignment) -> bool:
        pod = self._enforced.get(assignment.index)
        return pod is not None and pod.key == assignment.pod.key and set(pod.ips) == set(assignment.pod.ips)

    def _find(self, container: str, interface: str) -> Assignment | None:
        return next(
            (one for one in self._by_index.values() if (one.container, one.interface) == (container, interface)), None
        )

    def _drop(self, indexes: set[int]) -> None:
        for index in indexes:
            del self._by_index[index]
            self._enforced.pop(index, None)
            self._made.pop(index, None)
            self._made_ns.pop(index, None)
        try:
            self._save()
        except OSError as error:
            # The next probe finds that the interfaces do not carry our programs, and drops them too.
            log.warning("the file of assignments cannot be written", file=str(self._path), error=str(error))

    def _save(self) -> None:
        replace_state(self._path, msgspec.json.encode(list(self._by_index.values())))


def with_addresses(pod: Pod, addresses: tuple[str, ...]) -> Pod:
    """Return the pod with these addresses; the same object if it has them, in any order."""
    return pod if set(pod.ips) == set(addresses) else msgspec.structs.replace(pod, ips=addresses)


def _read(path: Path) -> dict[int, Assignment]:
    try:
        found = _decode(read_state(path))
        for one in found:
            check_pod(one.pod)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, DamagedError) as error:
        set_aside(path, "assignments", str(error),
                  "interfaces are bound by their addresses until their pods are made again")  # fmt: skip
        return {}
    return {one.index: one for one in found}
