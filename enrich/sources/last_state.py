"""Keeps the policies of an optional kind in force until it is proved that somebody deleted them.

A CustomResourceDefinition can stop to serve the version that this program reads, or be deleted and made again by an
upgrade. Then the server answers 404, or an empty list, although nobody meant to open what these policies close. So an
object leaves the index only if one of these says that it was deleted:

1. An event DELETED, while the definition is what it was when the object was seen: of the same UID, not being deleted,
   and serving our version. (The server deletes all objects of a definition that is deleted, and sends the same events.)
2. A complete list without it, while the definition is what it was. A list that is empty all of a sudden is asked for
   again until it has been empty for some seconds, and proves nothing if nobody can read the definition.

Everything else leaves the object as it is. Such an object is *kept*: it is named, with the reason, in the log, on
/readyz and in a metric. It is replaced when the server has an object of its name again. Deleting that one removes it.

With a :class:`enrich.sources.policy_store.PolicyStore`, all this holds across restarts. Between two starts a node may
join another cluster, so each object is stored with the cluster that it was seen in. As long as the server's cluster is
not known, a stored object stays in force; once it is known to be another one, the object goes, and the log names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
import structlog

from enrich.model import Name, Object
from enrich.sources.client import AnswerError
from enrich.sources.definition import UNREADABLE, Definition
from enrich.sources.policy_store import PolicyStore, Stored
from enrich.sources.resources import Reader, Resource

log = structlog.get_logger("kubeweir.source")

_CONFIRM_S: Final = 5.0
"""A list must stay empty for so long before it is believed."""
_NO_DEFINITION: Final = "-"
"""In place of a definition's UID: there is none, so another server answers for the kind (an aggregated API)."""


class LastState:
    """The objects of one kind that are in force, and under which definition each was seen. One thread uses it."""

    def __init__(
        self,
        resource: Resource,
        ask: Callable[[], Definition],
        store: PolicyStore | None,
        ask_cluster: Callable[[], str] = str,
    ) -> None:
        """``ask`` reads the definition, and raises AnswerError if it gets no answer. ``ask_cluster`` reads the UID of
        the server's namespace kube-system, likewise; it returns an empty text if the server does not show it."""
        self.kept: Mapping[Name, str] = {}
        """Why each of these objects is in force although the server does not have it. Replaced as a whole."""
        self._resource, self._ask, self._store = resource, ask, store
        self._ask_cluster = ask_cluster
        self._objects: dict[Name, Object] = {}
        self._seen_under: dict[Name, str] = {}
        """The UID of the definition under which each object was last seen; empty if it was not readable."""
        self._seen_in: dict[Name, str] = {}
        """The UID of the cluster in which each object was last seen; empty if it was not known."""
        self._uid = self._cluster = ""
        self._empty_since: float | None = None
        self._is_said = False
        """It was logged that the cluster of stored objects cannot be checked."""
        if store is not None:
            self._load(store)

    def _load(self, store: PolicyStore) -> None:
        for name, stored in store.load():
            self._adopt(store, name, stored)

    def _adopt(self, store: PolicyStore, name: str, stored: Stored) -> None:
        why = "it does not describe a policy"
        made = None
        try:
            made = Reader(self._resource).read(stored.object)[1]
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            why = repr(error)
        if made is not None:
            self._objects[made.key] = made
            self._seen_under[made.key], self._seen_in[made.key] = stored.definition, stored.cluster
        else:
            store.leave_out(name, why)

    def begin(self) -> None:
        """Note under which definition the objects are seen that the next request returns."""
        if self._store is not None and self._store.is_late:
            self._load(self._store)
        try:
            found = self._ask()
        except AnswerError:
            found = UNREADABLE
        self._uid = found.uid if found.exists or not found.readable else _NO_DEFINITION

    def begin_list(self) -> None:
        """Note in which cluster the objects are that the next list has, and forget those of another one.

        Raises AnswerError."""
        if self._store is None:
            return
        found = self._ask_cluster()
        if not found and self._objects and not self._is_said:
            self._is_said = True
            log.warning(
                "stored policies may be another cluster's, and stay in force: the API server does not show its "
                "namespace kube-system", kind=self._resource.kind, policies=len(self._objects),
                hint="the account needs list on namespaces",
            )  # fmt: skip
        self._cluster = found or self._cluster
        foreign = [key for key, seen in self._seen_in.items() if found and seen not in ("", found)]
        if foreign:
            log.error(
                "policies of another cluster are no longer in force: this node belongs to another cluster now",
                kind=self._resource.kind, policies=sorted(map(str, foreign)), cluster=found,
                their_clusters=sorted({self._seen_in[key] for key in foreign}),
            )  # fmt: skip
        for key in foreign:
            self._remove(key)

    def put(self, made: Object, raw: bytes) -> None:
        """Note an object that the server has."""
        key = made.key
        # A definition that is not readable now proves nothing about the one that the object was seen under before.
        uid, cluster = self._uid or self._seen_under.get(key, ""), self._cluster or self._seen_in.get(key, "")
        self._objects[key], self._seen_under[key], self._seen_in[key] = made, uid, cluster
        if key in self.kept:
            self._keep({other: why for other, why in self.kept.items() if other != key})
        if self._store is not None:
            self._store.save(key.name, Stored(uid, msgspec.Raw(raw), cluster))

    def take(self, key: Name) -> bool:
        """Note an event DELETED; return whether the object is gone, and not kept. Raises AnswerError."""
        why = self._doubt(key, self._ask(), emptied=False) if key in self._objects else ""
        if why:
            self._keep({**self.kept, key: why})
        else:
            self._remove(key)
        return not why

    def replace(self, listed: Mapping[Name, tuple[Object, bytes]], unreadable: Iterable[str]) -> list[Object]:
        """Note a complete list, and return the objects that are in force: those, and the ones that are kept.

        ``unreadable`` names objects that the server has and this program cannot parse: their last state stays. Raises
        AnswerError if the list is not believed yet.
        """
        present = set(unreadable)
        missing = [key for key in self._objects if key not in listed and str(key) not in present]
        emptied = bool(missing) and not listed and not present
        kept = {}
        if missing:
            definition = self._ask()
            kept = {key: why for key in missing if (why := self._doubt(key, definition, emptied=emptied))}
        if emptied and not kept:
            self._confirm_empty()
        self._empty_since = None
        for made, raw in listed.values():
            self.put(made, raw)
        for key in missing:
            if key not in kept:
                self._remove(key)
        self._keep(kept)
        return list(self._objects.values())

    def unserved(self, why: str) -> list[Object]:
        """Note that the server does not serve the kind, and return the objects that stay in force."""
        self._empty_since = None
        self._keep(dict.fromkeys(self._objects, why))
        return list(self._objects.values())

    def _doubt(self, key: Name, now: Definition, *, emptied: bool) -> str:
        """Return why it is not proved that an object was deleted that the server does not have; empty: it is."""
        seen, name = self._seen_under[key], self._resource.definition
        if not now.readable:
            return f"the list is empty, and {name} cannot be read, which would prove it" if emptied else ""
        if not now.exists:
            if seen != _NO_DEFINITION:
                return f"{name} does not exist any more"
            return "another server answers for this kind, and its list is empty" if emptied else ""
        if now.is_ending:
            return f"{name} is being deleted"
        if seen not in ("", _NO_DEFINITION, now.uid):
            return f"{name} was deleted and made again, without this object"
        if self._resource.version.rpartition("/")[2] not in now.served:
            return f"{name} does not serve {self._resource.version}"
        return ""

    def _confirm_empty(self) -> None:
        now = time.monotonic()
        if self._empty_since is None:
            self._empty_since = now
        if now - self._empty_since < _CONFIRM_S:
            raise AnswerError(
                f"the list is empty all of a sudden: {len(self._objects)} objects stay in force until it has been "
                f"empty for {_CONFIRM_S:g} s"
            )

    def _remove(self, key: Name) -> None:
        self._objects.pop(key, None)
        self._seen_under.pop(key, None)
        self._seen_in.pop(key, None)
        if key in self.kept:
            self._keep({other: why for other, why in self.kept.items() if other != key})
        if self._store is not None:
            self._store.remove(key.name)

    def _keep(self, kept: Mapping[Name, str]) -> None:
        before, self.kept = self.kept, kept
        for key, why in kept.items():
            if before.get(key) != why:
                log.warning("a policy stays in force that the server does not have", kind=self._resource.kind,
                            name=str(key), reason=why)  # fmt: skip
        for key in before:
            if key not in kept:
                log.info("a policy is no longer kept", kind=self._resource.kind, name=str(key))
