"""What a source observes, on its way to the writer of the journal: each state that differs from the one before it.

The threads of the source bring versions, the thread of the writer takes states. Most versions change nothing that the
journal keeps (a node's conditions, an annotation), and end here.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, cast

import structlog

from enrich.model import POLICY_API_VERSIONS, Namespace, Node, Object, Pod, Service
from enrich.network_logging import NetworkLogging
from enrich.sources.versions import UNKNOWN, Version
from enrich.wire.journal import MAX_MANAGER, JournalError, names_object, raw_state, refusal
from enrich.wire.journal_objects import Journaled

log = structlog.get_logger("kubeweir.streams")

OBJECT_KINDS: Final[tuple[type, ...]] = (Namespace, Node, Service, NetworkLogging, *POLICY_API_VERSIONS)
"""What the API has, and the journal keeps."""
_KINDS: Final = (*OBJECT_KINDS, Pod)
_MAX_QUEUED: Final = 50_000
"""States that wait for the writer. At more, they are dropped, and the journal gets a gap with their outcome."""


class Key(NamedTuple):
    """The kind, namespace and name of an object; of a profile its number as the name."""

    kind: str
    namespace: str
    name: str


class Observed(NamedTuple):
    """A state of an object, from a time on."""

    key: Key
    uid: str
    state: bytes
    """As :func:`enrich.wire.journal.raw_state` encodes it; empty: the object is gone, or its state was refused."""
    version: Version
    seen_ns: int
    refused: str = ""
    """Why the state is outside the bounds of an entry: the object exists, and its state is not known."""

    @property
    def exists(self) -> bool:
        """Whether the object exists."""
        return bool(self.state or self.refused)

    def differs(self, other: Observed | None) -> bool:
        """Return whether the journal keeps this state after the other one."""
        if other is None:
            return self.exists
        if not self.state or self.version == UNKNOWN:
            # One refused state after the other is not known either.
            return (self.state, bool(self.refused)) != (other.state, bool(other.refused))
        mine, its = (self.uid, self.state, self.version.generation), (other.uid, other.state, other.version.generation)
        return mine != its


class Pods(Protocol):
    """Takes pods; see :class:`streams.journal.profiles.Profiles`."""

    def listed(self, pods: Sequence[Pod]) -> None: ...

    def set(self, pod: Pod) -> None: ...

    def deleted(self, pod: Pod) -> None: ...


class ObservedStates:
    """An observer of a source (:class:`enrich.sources.versions.Observer`)."""

    kinds = _KINDS

    def __init__(self, pods: Pods, on_refused: Callable[[], object], now_ns: Callable[[], int] = time.time_ns) -> None:
        """``pods`` takes the pods, which have profiles instead of states. ``on_refused`` is called for each state that
        is outside the bounds of the journal."""
        self._pods, self._on_refused, self._now_ns = pods, on_refused, now_ns
        self._lock = threading.Lock()
        self._current: dict[Key, Observed] = {}
        self._queue: deque[Observed] = deque()
        self._has_overflowed = False

    # --- the source's threads

    def listed(self, kind: type, found: Sequence[tuple[Object, Version]]) -> None:
        """Take a complete list of a kind."""
        if kind is Pod:
            self._pods.listed([cast("Pod", made) for made, _ in found])
            return
        with self._lock:
            present = {self._take(made, version) for made, version in found}
            for key in [key for key in self._current if key.kind == kind.__name__ and key not in present]:
                self._end(key, UNKNOWN)

    def set(self, made: Object, version: Version) -> None:
        """Take an object that was created or changed."""
        if isinstance(made, Pod):
            self._pods.set(made)
            return
        with self._lock:
            self._take(made, version)

    def deleted(self, made: Object, version: Version) -> None:
        """Take the end of an object."""
        if isinstance(made, Pod):
            self._pods.deleted(made)
            return
        with self._lock:
            self._end(_key_of(made), version)

    def _take(self, made: Object, version: Version) -> Key:
        key, uid, state, refused = _key_of(made), made.uid, b"", ""
        try:
            state = bytes(raw_state(cast("Journaled", made)))
        except JournalError as error:
            self._on_refused()
            # Without an entry, the earlier state would stay true for readers.
            uid, refused = "", refusal(error)
            log.error("the state of an object is not in the journal: it is outside the bounds of an entry",
                      kind=key.kind, name=str(made.key), error=refused)  # fmt: skip
        self._put(Observed(key, uid, state, _cleaned(version), self._now_ns(), refused))
        return key

    def _put(self, found: Observed) -> None:
        if found.differs(self._current.get(found.key)):
            self._current[found.key] = found
            self._add(found)

    def _end(self, key: Key, version: Version) -> None:
        before = self._current.pop(key, None)
        if before is not None:
            self._add(Observed(key, before.uid, b"", _cleaned(version), self._now_ns()))

    def _add(self, found: Observed) -> None:
        self._queue.append(found)
        if len(self._queue) > _MAX_QUEUED:
            self._queue.clear()
            self._has_overflowed = True

    # --- the writer's thread

    def put_profiles(self, found: Sequence[Observed]) -> None:
        """Take states of profiles, which the writer's thread makes of pods."""
        with self._lock:
            for one in found:
                if one.exists:
                    self._put(one)
                else:
                    self._end(one.key, UNKNOWN)

    def take(self) -> list[Observed] | None:
        """Return the states since the last call, in their order; None if some of them were dropped."""
        with self._lock:
            queue, self._queue = self._queue, deque()
            has_overflowed, self._has_overflowed = self._has_overflowed, False
        return None if has_overflowed else list(queue)

    def current(self, key: Key) -> Observed | None:
        """Return the state of an object; None if it does not exist."""
        with self._lock:
            return self._current.get(key)

    def snapshot(self) -> dict[Key, Observed]:
        """Return the state of every object that exists, and forget what waits."""
        with self._lock:
            self._queue.clear()
            self._has_overflowed = False
            return dict(self._current)


def _key_of(made: Object) -> Key:
    """Return the key of an object. One that no entry can name, as only a folder of manifests may have it, gets a name
    that stands for it."""
    key = Key(type(made).__name__, *made.key)
    if names_object(*key):
        return key
    number = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
    return Key(key.kind, key.namespace if names_object(key.kind, key.namespace, "x") else "", f"unnamed-{number}")


def _cleaned(version: Version) -> Version:
    """Return a version that fits an entry: a manager may choose its name."""
    manager = "".join(one for one in version.changed_by if one.isprintable())[:MAX_MANAGER]
    text = version.resource_version
    is_plain = len(text) <= 64 and text.isascii() and text.isprintable() and " " not in text
    return version._replace(changed_by=manager, resource_version=text if is_plain else "")
