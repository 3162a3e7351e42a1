"""The templates of every ring, found by the numbers that its verdicts have.

A ring numbers its endpoints and rules, and the headers of its batches say what the numbers mean. The ring's verdicts of
one shape have one template (:mod:`enrich.render.template`), until its pod changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

import numpy as np

from enrich.render.eviction import KEPT, victims
from enrich.render.fragments import EndRenderer, RenderedEnd
from enrich.render.template import SHAPE, Decided, Template, Templates, decide, make_template
from enrich.wire.batch import EndpointRef, Header, PolicyRef

MAX_TEMPLATE_BYTES: Final = 200 << 20
"""Bytes of templates and of what rings have learnt; at more, some rings are evicted."""
_MAX_RINGS: Final = 12_500
_RING_BYTES: Final = 1500
"""What a ring takes, and what the templates of a rule share, about."""
_ENDPOINT_BYTES: Final = 400
"""What an endpoint's or a policy's name takes, about."""
_Meaning = TypeVar("_Meaning")


class Rings:
    """The rings whose verdicts were rendered lately, and their templates."""

    def __init__(self, ends: EndRenderer) -> None:
        self._ends = ends
        self._rings: dict[tuple[str, str, str], _Ring] = {}
        self._by_pod: defaultdict[str, set[tuple[_Ring, bytes]]] = defaultdict(set)
        """The shapes whose templates name a pod, by UID."""
        self.clear()

    def clear(self) -> None:
        """Forget every ring. What was handed out stays valid: it keeps its own table of templates."""
        self.templates = Templates()
        self.bytes = 0
        """About how much memory the templates take, and what their rings have learnt."""
        self._rings.clear()
        self._by_pod.clear()

    def ring(self, header: Header) -> _Ring:
        """Return the ring of a header, which knows the meaning of the header's numbers."""
        name = (header.cluster, header.node, header.ring)
        ring = self._rings.get(name)
        if ring is None:
            ring = self._rings[name] = _Ring(header, self, self._ends)
        ring.is_used = True
        ring.learn(header)
        return ring

    def keep(self, uid: str, ring: _Ring, shape: bytes) -> None:
        """Note that the template of a ring's shape names the pod with a UID."""
        self._by_pod[uid].add((ring, shape))

    def forget(self, uids: Iterable[str], unkept_bytes: int = 0) -> None:
        """Forget the templates that name some pods. ``unkept_bytes``: what ends take that are not among the rendered
        pods any more."""
        self.bytes += unkept_bytes  # some may be in forgotten templates until the table is made anew
        for uid in uids:
            for ring, shape in self._by_pod.pop(uid, ()):
                ring.forget(shape)

    def evict(self) -> None:
        """Forget some rings if there are too many, or if their templates take too much memory.

        What was handed out stays valid: it keeps its own table of templates."""
        if len(self._rings) > _MAX_RINGS:
            self._evict(len(self._rings) - int(KEPT * _MAX_RINGS))
        if self.bytes <= MAX_TEMPLATE_BYTES:
            return
        self._evict(0)  # forgotten templates go
        while self.bytes > KEPT * MAX_TEMPLATE_BYTES and self._rings:
            self._evict(1 + int((1 - KEPT * MAX_TEMPLATE_BYTES / self.bytes) * len(self._rings)))

    def _evict(self, count: int) -> None:
        """Forget some rings, and make the table of templates anew from those of the others."""
        used = np.array([ring.is_used for ring in self._rings.values()], bool)
        names = list(self._rings)
        for place in victims(used, count).tolist() if count else ():
            del self._rings[names[place]]
        before, self.templates, self.bytes = self.templates, Templates(), 0
        for ring in self._rings.values():
            ring.move(before)
        kept = set(self._rings.values())
        for ring in kept if count else ():
            ring.is_used = False
        for uid, named in tuple(self._by_pod.items()) if count else ():
            left = {(ring, shape) for ring, shape in named if ring in kept}
            if left:
                self._by_pod[uid] = left
            else:
                del self._by_pod[uid]


class _Ring:
    """The templates of one ring. Endpoint and rule numbers keep their meaning for the life of a ring."""

    def __init__(self, header: Header, rings: Rings, ends: EndRenderer) -> None:
        self.is_used = True
        """Whether it was used since the last eviction."""
        self._header, self._rings, self._ends = header, rings, ends
        self._endpoints: dict[str, EndpointRef] = {}
        self._rules: dict[str, list[PolicyRef]] = {}
        self._known: dict[bytes, int] = {}
        self._former: dict[bytes, list[tuple[int, int, int]]] = {}
        """Templates of former times: since and until when (not included) they hold, and their numbers."""
        self._decided: dict[tuple[int, ...], Decided] = {}
        self._bytes = 0
        """About how much memory it takes without its templates."""
        self._count(_RING_BYTES)

    def _count(self, more: int) -> None:
        self._bytes += more
        self._rings.bytes += more

    def learn(self, header: Header) -> None:
        """Learn the meaning of numbers from a header. If it differs from an earlier header, the later one is right."""
        before = len(self._endpoints), len(self._rules)
        changed = _learn(self._endpoints, header.endpoints) | _learn(self._rules, header.rules)
        names = len(self._endpoints) - before[0]
        names += sum(1 + len(self._rules[rule]) for rule in tuple(self._rules)[before[1] :])
        self._count(names * _ENDPOINT_BYTES)
        if changed:
            self._known.clear()
            self._former.clear()
            self._decided.clear()

    def templates(self, shapes: Sequence[bytes]) -> list[int]:
        """Return the number of the template for each :data:`SHAPE`."""
        found = list(map(self._known.get, shapes))
        if None in found:
            made = {shape: self._make(shape) for shape in set(shapes) - self._known.keys()}
            return [made[shape] if number is None else number for shape, number in zip(shapes, found, strict=True)]
        return found  # type: ignore[return-value]  # None was ruled out

    def forget(self, shape: bytes) -> None:
        """Forget the template of a shape."""
        self._known.pop(shape, None)
        self._former.pop(shape, None)

    def move(self, before: Templates) -> None:
        """Take the ring's templates over into a table that was made anew."""
        self._rings.bytes += self._bytes
        self._known = {shape: self._moved(before, number) for shape, number in self._known.items()}
        self._former = {
            shape: [(since, until, self._moved(before, number)) for since, until, number in former]
            for shape, former in self._former.items()
        }

    def _moved(self, before: Templates, number: int) -> int:
        return self._keep(before[number])

    def template_at(self, shape: bytes, at_ns: int) -> int:
        """Return the number of the template for a :data:`SHAPE` whose pod has changed since that moment."""
        for since, until, number in self._former.get(shape, ()):
            if since <= at_ns < until:
                return number
        endpoint, rule, *facts = np.frombuffer(shape, SHAPE)[0].tolist()
        ref = self._endpoints.get(str(endpoint))
        if ref is None:
            # A header may have a key such as "07", which no verdict's number is spelt like.
            return self.templates([shape])[0]
        refs = self._rules.get(str(rule))
        subject, since, until = self._ends.local_at(ref, self._header.node, at_ns)
        number = self._add(ref, decide(self._header, refs or [], facts), subject)
        if refs is not None or not rule:
            self._former.setdefault(shape, []).append((since, until, number))
            self._rings.keep(ref.uid, self, shape)
        return number

    def _make(self, shape: bytes) -> int:
        endpoint, rule, *facts = np.frombuffer(shape, SHAPE)[0].tolist()
        ref, refs = self._endpoints.get(str(endpoint)), self._rules.get(str(rule))
        known = refs is not None or not rule
        key = (rule, *facts)
        decided = self._decided.get(key)
        if decided is None:
            decided = decide(self._header, refs or [], facts)
            if known:
                self._decided[key] = decided
                self._count(_RING_BYTES)
        number = self._add(ref, decided, self._ends.local(ref, self._header.node))
        if (ref or not endpoint) and known:
            self._known[shape] = number
            if ref is not None:
                self._rings.keep(ref.uid, self, shape)
        return number

    def _add(self, ref: EndpointRef | None, decided: Decided, subject: RenderedEnd) -> int:
        return self._keep(make_template(ref, decided, subject))

    def _keep(self, template: Template) -> int:
        subject = template.subject
        self._rings.bytes += template.cost + (0 if self._ends.is_kept(subject) else subject.cost)
        return self._rings.templates.add(template)


def _learn(known: dict[str, _Meaning], announced: dict[str, _Meaning]) -> bool:
    """Add what is announced, and return whether it changed the meaning of a known number."""
    changed = False
    for number, meaning in announced.items():
        if known.setdefault(number, meaning) != meaning:
            known[number] = meaning
            changed = True
    return changed
