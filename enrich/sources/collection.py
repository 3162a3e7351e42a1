"""The objects of one kind on their way from a watch into the index: parsed, listed, and kept where that is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from enrich.index.cluster import Change
from enrich.model import Name, Object, Pod
from enrich.sources.cluster_uid import read_cluster_uid
from enrich.sources.connection import Connection
from enrich.sources.definition import read_definition
from enrich.sources.last_state import LastState
from enrich.sources.messages import decode_event
from enrich.sources.policy_store import PolicyStore
from enrich.sources.resources import Index, Reader, Resource
from enrich.sources.versions import UNKNOWN, Observer, Version, version_of

log = structlog.get_logger("kubeweir.source")

SETS: Final = ("ADDED", "MODIFIED")


class Event(NamedTuple):
    """An event of a watch, or an element of a list."""

    type: str
    version: str
    """The object's resource version; empty for an event that sets nothing."""
    made: Object | None
    """The object; None for an event that sets nothing, and for an object that is left out."""
    raw: msgspec.Raw
    """The JSON of the object; empty for pods, which are read in one step with their event."""


class Collection:
    """The objects of one kind. One thread uses it; any thread may ask for what is refused or kept."""

    def __init__(
        self,
        resource: Resource,
        index: Index,
        definitions: Connection,
        store: PolicyStore | None = None,
        observer: Observer | None = None,
    ) -> None:
        """``store`` keeps the last state of a kind that a cluster may do without; None: a restart loses it.

        ``observer`` takes each version of an object, if it observes the kind."""
        self._resource, self._index = resource, index
        self._observer = observer if observer is not None and resource.type in observer.kinds else None
        self._versions: dict[Name, Version] = {}
        """The versions that the list has brought so far. The observer gets them when the list is complete."""
        self._reader = Reader(resource)
        self._last: LastState | None = None
        if resource.is_kept:
            self._last = LastState(
                resource,
                lambda: read_definition(definitions, resource),
                store,
                lambda: read_cluster_uid(definitions),
            )
        self._listed: dict[Name, tuple[Object, bytes]] | None = None

    @property
    def refused(self) -> set[str]:
        """The names of objects that cannot be parsed."""
        return self._reader.refused

    @property
    def kept(self) -> Mapping[Name, str]:
        """Objects that are in force although the server does not have or does not serve them, and why."""
        return self._last.kept if self._last is not None else {}

    @property
    def is_listing(self) -> bool:
        """Whether a list has begun that is not complete."""
        return self._listed is not None

    # --- lists

    def begin(self) -> None:
        """Note that the next request begins."""
        if self._last is not None:
            self._last.begin()

    def begin_list(self) -> None:
        """Start a list."""
        if self._last is not None:
            self._last.begin_list()
        self._reader.begin()
        self._listed = {}

    def add(self, made: Object | None, raw: msgspec.Raw) -> None:
        """Add an element to the list."""
        if made is not None and self._listed is not None:
            # The bytes of a list are large.
            self._listed[made.key] = (made, bytes(raw) if self._last is not None else b"")
            if self._observer is not None:
                self._versions[made.key] = self._version(raw)

    def add_item(self, raw: msgspec.Raw) -> None:
        """Parse an element and add it to the list."""
        self.add(self._reader.read(raw)[1], raw)

    def give_up_list(self) -> bool:
        """Forget a list that is not complete; return whether it had any element."""
        listed, self._listed, self._versions = self._listed, None, {}
        return bool(listed)

    def complete_list(self, synced_ns: int) -> None:
        """Put the list into the index. Raises AnswerError if it is not believed."""
        listed = self._listed or {}
        objects = [made for made, _ in listed.values()]
        if self._last is not None:
            objects = self._last.replace(listed, self._reader.refused)
        self._listed = None
        self._replace(objects, synced_ns)
        log.info("listed", kind=self._resource.kind, objects=len(objects))

    # --- changes

    def read(self, line: bytes) -> Event:
        """Parse a line of a watch."""
        if (read := self._reader.read_event(line)) and read[0] in SETS:
            return Event(*read, msgspec.Raw())
        event = decode_event(line)
        if event.type not in SETS:
            return Event(event.type, "", None, event.object)
        return Event(event.type, *self._reader.read(event.object), event.object)

    def set(self, event: Event, synced_ns: int) -> None:
        """Apply an event that sets an object."""
        if event.made is not None:
            # It is in force before it is stored: a disk may be slow.
            self._index.apply(self._resource, Change("set", event.made), synced_ns)
            if self._observer is not None:
                self._observer.set(event.made, self._version(event.raw))
            if self._last is not None:
                self._last.put(event.made, bytes(event.raw))

    def delete(self, item: dict[str, Any], synced_ns: int) -> None:
        """Apply an event that deletes an object. Raises AnswerError if nobody says whether it is to be believed."""
        gone = self._resource.gone(item)
        if self._last is None or self._last.take(gone.key):
            self._reader.forget(gone.key)
            self._index.apply(self._resource, Change("delete", gone), synced_ns)
            if self._observer is not None:
                version = str((item.get("metadata") or {}).get("resourceVersion") or "")
                self._observer.deleted(gone, Version(version))

    def set_absent(self, why: str, synced_ns: int, report: Callable[[str | None], None]) -> None:
        """Note that the server does not serve the kind.

        What was seen of the kind stays in force. Without anything, the kind is empty, and that is a problem only if
        there is a reason (``why``), such as a definition of another version. ``report`` takes what is wrong, None if
        nothing, before the index changes: whoever waits for the index then finds it."""
        objects = self._last.unserved(why or "the API server does not serve this kind") if self._last else []
        reason = why or "the API server does not serve this kind any more"
        state = f"{reason}: the last state stays in force (objects: {len(objects)})"
        report(state if objects else why or None)
        self._replace(objects, synced_ns)

    def _replace(self, objects: list[Object], synced_ns: int) -> None:
        """Replace the kind in the index, and let the observer know."""
        self._index.replace(self._resource, objects, synced_ns)
        if self._observer is not None:
            versions, self._versions = self._versions, {}
            self._observer.listed(self._resource.type, [(made, versions.get(made.key, UNKNOWN)) for made in objects])

    def _version(self, raw: msgspec.Raw) -> Version:
        """Read the version of an element. No observer needs that of pods, which are many."""
        return UNKNOWN if self._resource.type is Pod else version_of(raw)
