"""The state of one cluster as of any time that its journal knows.

A :class:`Timeline` is made from the entries of the journal, in the order in which the topic has them. It gives:

- the policies, namespaces and nodes as of a time, as a :class:`enrich.policy.matching.PolicyView` without pods;
- the :class:`Segment` list of a time span: stretches of time in which nothing changed that a :class:`Scope` asks for.
  A scope is what one connection's verdict can depend on, so that a change elsewhere does not cut its segments;
- the versions of each object, with who changed it;
- the profiles, which are true at any time because their number is the hash of their content.

The past does not change. Whoever may write to the topic can lie about the time from :data:`MAX_BACK_NS` before an entry
on, until the writer makes up for it, and not about the time before:

- The writer gives each entry a later time than all before. An entry that goes back further than clocks may differ is
  not the writer's, and is left out. A gap begins no earlier than that, either: the writer does not write one later.
- A state that is only repeated is believed if there is an earlier entry that says the same, or as long as the first
  repeats are read (:attr:`Timeline.begins_ns`).

Nothing is guessed. Before the journal begins, in a gap (no writer ran) and while the newest version of an object cannot
be read, there are no segments, and :meth:`Timeline.unknown` says why.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from enrich.history.moments import moment
from enrich.history.versions import FOREVER_NS, TIERED, Gap, Track, Version, policy_key, version_of
from enrich.model import Name, Namespace, NetworkPolicy, Node, Service
from enrich.policy.matching import PolicyView
from enrich.wire.journal import (
    GAP,
    MAX_AHEAD_NS,
    PROFILE,
    REPEATED_NS,
    JournalEntry,
    JournalError,
    Profile,
    number_of,
    state_of,
)
from enrich.wire.journal_objects import Journaled

_NETWORK_POLICY: Final = NetworkPolicy.__name__
_NAMESPACE: Final = Namespace.__name__
_NODE: Final = Node.__name__
_SERVICE: Final = Service.__name__
_TIERS: Final = "tiers"
MAX_BACK_NS: Final = 2 * MAX_AHEAD_NS
"""How far the time of an entry may be before that of an earlier entry. A forged one may be ahead of the broker's clock,
and the writer's own behind it, each by :data:`enrich.wire.journal.MAX_AHEAD_NS`."""
_MAX_VIEWS: Final = 20_000
"""Views that are kept ready."""
_NOTHING: Final = Track()
"""The track of what the journal does not know, which may be asked about any number of names. Nothing is added to it."""


class Scope(NamedTuple):
    """What the verdict about one connection depends on, beside the policies of tiers, on which each one depends."""

    namespace: str
    """The subject's: its NetworkPolicies and the namespace itself."""
    peer_namespace: str = ""
    nodes: bool = False
    """Whether nodes matter: the peer is a node, or has an address that is one's."""


class Segment(NamedTuple):
    """A stretch of time in which nothing of a scope changed: from ``since_ns`` to before ``until_ns``."""

    since_ns: int
    until_ns: int
    view: PolicyView
    state: tuple[Scope, tuple[int, ...]]
    """Equal for segments of equal views, and hashable."""


class Timeline:
    """The past of one cluster; see the module."""

    def __init__(self, cluster: str, entries: Iterable[JournalEntry], known_until_ns: int = FOREVER_NS) -> None:
        """``known_until_ns``: from here on nothing is known, because no writer of the journal is seen."""
        self.cluster = cluster
        self.profiles: dict[str, Profile] = {}
        self.refused_profiles: dict[str, str] = {}
        """The namespaces of profiles that do not fit an entry: pods that there were, and of which nothing is known."""
        self._tracks: defaultdict[tuple[str, str], Track] = defaultdict(Track)
        self._gaps: list[Gap] = []
        self._views: dict[tuple[Scope, tuple[int, ...]], PolicyView] = {}
        self._is_empty = True
        self._begins_ns = FOREVER_NS
        self._last_ns = self._complete_ns = 0
        self.impossible = 0
        """Entries whose time cannot be that of the writer, and which are left out."""
        for entry in entries:
            if entry.cluster == cluster:
                self._add(entry)
        if known_until_ns != FOREVER_NS:
            self.end(known_until_ns)

    def lose(self, at_ns: int) -> None:
        """Note that entries of a time cannot be read, of whatever objects: until all states have been repeated, nothing
        is known."""
        text = f"entries of the journal of {moment(at_ns)} cannot be read, and any object may have changed in them"
        self._gaps.append(Gap(at_ns, at_ns + REPEATED_NS, text))

    def end(self, at_ns: int) -> None:
        """Note that from here on nothing is known."""
        self._gaps.append(Gap(at_ns, FOREVER_NS, f"the journal ends at {moment(at_ns)}: nobody writes it"))

    def _add(self, entry: JournalEntry) -> None:
        is_first, self._is_empty = self._is_empty, False
        if is_first:
            self._begin(entry)
            if entry.kind == GAP:
                return
        before = self._last_ns
        if entry.kind == PROFILE:
            self._add_profile(entry)  # true at any time
            self._last_ns = max(before, entry.seen_ns)
            return
        if entry.seen_ns < before - MAX_BACK_NS:
            self.impossible += 1
            return
        # The order of the topic is the order of what happened.
        if entry.seen_ns < before:
            self._add_turned_clock(entry.seen_ns)
        at = self._last_ns = max(before, entry.seen_ns)
        if entry.kind == GAP:
            since = min(max(entry.since_ns, before - MAX_BACK_NS), at)
            self._gaps.append(Gap(since, at, f"the journal was not written from {moment(since)} to {moment(at)}"))
        elif (version := version_of(entry, entry.since_ns or at)) is not None:
            self._tracks[_group(entry.kind, entry.namespace, entry.name)].add(version, at, self._complete_ns)

    def _begin(self, entry: JournalEntry) -> None:
        """Note from when on the state is known. A reader that begins in the middle has every state after it has been
        repeated; the first writer of a journal writes every state behind its first gap."""
        if entry.kind == GAP:
            self._begins_ns = entry.seen_ns
            self._complete_ns = max(entry.seen_ns, entry.since_ns + REPEATED_NS if entry.since_ns else 0)
        else:
            self._begins_ns = self._complete_ns = entry.seen_ns + REPEATED_NS

    def _add_turned_clock(self, seen_ns: int) -> None:
        """Note that between ``seen_ns`` and the newest time so far, it is not known what was true when."""
        until = self._last_ns
        if not self._gaps or self._gaps[-1].until_ns != until or self._gaps[-1].since_ns > seen_ns:
            text = f"the clocks of the journal's writers do not agree from {moment(seen_ns)} to {moment(until)}"
            self._gaps.append(Gap(seen_ns, until, text))

    def _add_profile(self, entry: JournalEntry) -> None:
        """Add a profile unless it cannot be read, or its number is another's. A pair of it then has an unknown end."""
        try:
            profile = state_of(entry)
        except JournalError:
            return
        if isinstance(profile, Profile) and number_of(profile) == entry.name:
            self.profiles[entry.name] = profile
        elif entry.refused:
            self.refused_profiles[entry.name] = entry.namespace

    # --- what is known

    @property
    def begins_ns(self) -> int:
        """From when on the state is known; :data:`FOREVER_NS` if the journal has nothing of this cluster."""
        return self._begins_ns

    def gaps(self) -> list[Gap]:
        """Return the times of which nothing is known, the one before the journal begins first."""
        if self._begins_ns == FOREVER_NS:
            return [Gap(0, FOREVER_NS, f"the journal has nothing of cluster {self.cluster}")]
        return [Gap(0, self._begins_ns, f"the journal begins at {moment(self._begins_ns)}"), *self._gaps]

    def unknown(self, scope: Scope | None, since_ns: int, until_ns: int) -> str:
        """Return why some of a time span, which includes ``until_ns``, is not known; empty if all of it is.

        ``scope`` None asks for everything."""
        found = (gap.text for gap in self._gaps_of(self._tracks_of(scope)) if gap.covers(since_ns, until_ns))
        return next(found, "")

    def unknown_policies(self, namespaces: Collection[str] | None, at_ns: int) -> str:
        """Return why it is not known what policies decide about pods of some namespaces; empty if it is known.

        ``namespaces`` None asks for all. The peers may be in any namespace, and on any node."""
        tracks = [
            track
            for (group, namespace), track in self._tracks.items()
            if group in (_TIERS, _NAMESPACE, _NODE)
            or (group == _NETWORK_POLICY and (namespaces is None or namespace in namespaces))
        ]
        return next((gap.text for gap in self._gaps_of(tracks) if gap.covers(at_ns, at_ns)), "")

    def unknown_services(self, at_ns: int) -> str:
        """Return why it is not known which Services there were at a time; empty if it is known."""
        tracks = [track for (group, _), track in self._tracks.items() if group == _SERVICE]
        return next((gap.text for track in tracks for gap in track.gaps if gap.covers(at_ns, at_ns)), "")

    # --- states

    def view_at(self, at_ns: int) -> PolicyView:
        """Return the whole state as of a time, without pods. Ask :meth:`unknown` whether it is known."""
        found: dict[str, dict[Name, Journaled]] = defaultdict(dict)
        for (group, _), track in self._tracks.items():
            found[group].update(track.at(at_ns))
        return _view(found[_NAMESPACE], found[_NODE], found[_NETWORK_POLICY], found[_TIERS])

    def services_at(self, at_ns: int) -> dict[Name, Service]:
        """Return the Services as of a time."""
        found = (track.at(at_ns) for (group, _), track in self._tracks.items() if group == _SERVICE)
        return {key: one for part in found for key, one in part.items() if isinstance(one, Service)}

    def segments(self, scope: Scope, since_ns: int, until_ns: int) -> list[Segment]:
        """Return the known stretches of a time span, which includes ``until_ns``; none if none of it is known."""
        tracks = self._tracks_of(scope)
        cuts = {since_ns, until_ns + 1}
        for track in tracks:
            cuts.update(track.times[track.index(since_ns) : track.index(until_ns)])
        gaps = [gap for gap in self._gaps_of(tracks) if gap.covers(since_ns, until_ns)]
        for gap in gaps:
            cuts.update(at for at in gap[:2] if since_ns < at <= until_ns)
        bounds = sorted(cuts)
        return [
            self._segment(scope, tracks, start, end)
            for start, end in itertools.pairwise(bounds)
            if not any(gap.covers(start, start) for gap in gaps)
        ]

    def _segment(self, scope: Scope, tracks: list[Track], since_ns: int, until_ns: int) -> Segment:
        state = (scope, tuple(track.index(since_ns) for track in tracks))
        view = self._views.get(state)
        if view is None:
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            policies, tiers, *rest = (track.at(since_ns) for track in tracks)
            nodes = rest.pop() if scope.nodes else {}
            view = self._views[state] = _view({k: v for part in rest for k, v in part.items()}, nodes, policies, tiers)
        return Segment(since_ns, until_ns, view, state)

    def _tracks_of(self, scope: Scope | None) -> list[Track]:
        """Return the tracks of a scope: policies, tiers, one or two namespaces, nodes if they matter."""
        if scope is None:
            return list(self._tracks.values())
        keys = [(_NETWORK_POLICY, scope.namespace), (_TIERS, "")]
        keys += [(_NAMESPACE, name) for name in dict.fromkeys((scope.namespace, scope.peer_namespace)) if name]
        keys += [(_NODE, "")] if scope.nodes else []
        return [self._tracks.get(key, _NOTHING) for key in keys]

    def _gaps_of(self, tracks: Iterable[Track]) -> list[Gap]:
        return [*self.gaps(), *(gap for track in tracks for gap in track.gaps)]

    # --- versions

    def versions(self, kind: str, namespace: str, name: str) -> list[Version]:
        """Return the versions of an object, the oldest first."""
        track = self._tracks.get(_group(kind, namespace, name), _NOTHING)
        return track.versions(policy_key(kind, namespace, name))

    def changes(self, scope: Scope | None, since_ns: int, until_ns: int) -> list[Version]:
        """Return the versions that were seen after ``since_ns`` and up to ``until_ns``, the oldest first.

        ``scope`` None asks for everything."""
        versions = (version for track in self._tracks_of(scope) for version in track.all_versions())
        return sorted((one for one in versions if since_ns < one.seen_ns <= until_ns), key=lambda one: one.seen_ns)

    @property
    def last_ns(self) -> int:
        """When the writer surely wrote last, as far as the entries go."""
        return self._last_ns

    def all_nodes(self) -> list[Node]:
        """Return every version of every node."""
        versions = (version.state for version in self._tracks[_NODE, ""].all_versions())
        return [state for state in versions if isinstance(state, Node)]


def clusters_of(entries: Iterable[JournalEntry]) -> list[str]:
    """Return the clusters that entries are of, sorted."""
    return sorted({entry.cluster for entry in entries})


def _group(kind: str, namespace: str, name: str) -> tuple[str, str]:
    """Return the track of an object: what changes of one namespace must not cut the segments of another's."""
    if kind in TIERED:
        return _TIERS, ""
    if kind == _NAMESPACE:
        return kind, name
    return kind, namespace


def _view(
    namespaces: Mapping[Name, Any], nodes: Mapping[Name, Any], policies: Mapping[Name, Any], tiers: Mapping[Name, Any]
) -> PolicyView:
    return PolicyView({}, namespaces, nodes, policies, tiers)
