"""The file of the pods that are bound to interfaces, by which the next probe knows pods that the API no longer has.

The maps and the ledger say which interface was bound to which UID. If the Pod object is deleted while no probe runs,
or was deleted before, labels and ports of the pod are nowhere but in this file; without them, the next probe could not
say which policies apply. The file also has the namespaces of these pods, whose labels ClusterNetworkPolicies select.
It is in the folder that lives as long as the pins.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from enrich.model import Namespace, Pod
from enrich.runtime.state_file import DamagedError, read_state, replace_state, set_aside
from probe.node.stored_pod import check_pod

log = structlog.get_logger("kubeweir.probe")


class _Content(msgspec.Struct):
    pods: list[Pod] = []
    namespaces: list[Namespace] = []


class BoundPods:
    """The last known objects of the pods that are bound, in memory and in a file. One caller at a time."""

    def __init__(self, path: Path) -> None:
        """Read what the last probe wrote to ``path``, if it did."""
        self._path = path
        self._content = _read(path)
        self._is_behind = False
        """Whether the file does not have the content, because the disk did not take it."""

    @property
    def pods(self) -> dict[str, Pod]:
        """Return the pods by UID."""
        return {pod.uid: pod for pod in self._content.pods}

    @property
    def namespaces(self) -> dict[str, Namespace]:
        """Return the pods' namespaces by name."""
        return {namespace.name: namespace for namespace in self._content.namespaces}

    def save(self, pods: Iterable[Pod], namespaces: Iterable[Namespace]) -> None:
        """Replace the content, and the file if it differs.

        A disk that takes nothing is logged, and keeps no policy from the kernel: the next call writes the file."""
        content = _Content(list(pods), list(namespaces))
        if content == self._content and not self._is_behind:
            return
        self._content = content
        try:
            replace_state(self._path, msgspec.json.encode(content))
        except OSError as error:
            if not self._is_behind:
                log.error("bound pods cannot be stored: after a restart, an interface whose pod the API lost is closed",
                          file=str(self._path), error=str(error))  # fmt: skip
            self._is_behind = True
            return
        self._is_behind = False


def _read(path: Path) -> _Content:
    try:
        found = msgspec.json.decode(read_state(path), type=_Content)
        for pod in found.pods:
            check_pod(pod)
    except FileNotFoundError:
        return _Content()
    except (ValueError, RecursionError, DamagedError) as error:
        set_aside(path, "bound pods", str(error), "an interface whose pod the API no longer has stays closed")
        return _Content()
    return found
