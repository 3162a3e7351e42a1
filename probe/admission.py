"""Installs what fits the policy maps, and closes what does not.

THEORY OF OPERATION. Usually everything fits: one compilation, one plan, one installation. If the plan exceeds a map,
one tenant's policies may not concern another's, so the unit is the policy set: all policies of a pod, which pods with
the same policies share. A set is installed as a whole, or its pods are closed as a whole (``policy_incomplete``), and
then its policies do not take part in the compilation at all: they need no entry and split no identity.

1. Put the sets into an order. What is in force unchanged comes first. Then come the sets of tenants (namespaces) that
   do not grow, and last those of tenants that grow; among these, the tenant that needs the least in all comes first. So
   a tenant who grows displaces no other, and a revocation never waits for another tenant's new list.
2. Go through the order in steps that double while all fits and halve where it does not, and close each set that does
   not fit by itself. Each step is a compilation of what changed, and a plan; nothing is written.
3. If the addresses of the cluster's own pods, Services and nodes do not fit, omit new ones, and close the sets that
   would treat such an address otherwise than the prefix around it (:mod:`probe.policy.omission`).
4. Install. What was in force of closed sets is removed at the same switch, so revocations take effect in any case.
5. Try closed sets again: at once if their policies change or a map has more room than when they were closed, and
   after a delay that doubles otherwise.

Example: the map has room for 1,024 policy entries, 100 are in use. Tenant ``big`` writes a policy of 2,000 rules, and
``shop`` removes a rule. The plan needs 2,090 entries. Order: the unchanged sets, shop's (it does not grow), big's. The
first two fit and are installed; big's pods are closed, and named in the log, in a metric and on ``/readyz``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from enrich.model import Name, Pod
from enrich.policy.matching import PolicyView
from probe.kernel import entries
from probe.kernel.endpoints import Bound, Surroundings
from probe.kernel.installer import Installer
from probe.kernel.plan import Installed, Plan
from probe.kernel.room import DoesNotFitError
from probe.policies_in_force import PoliciesOfEpochs
from probe.policy.compiler import Compiler
from probe.policy.desired import AddressKey
from probe.policy.omission import choose_omitted, sets_that_need

_FIRST_DELAY_S: Final = 1.0
_LONGEST_DELAY_S: Final = 60.0
_GROWTH: Final = 1.1
"""A tenant grows if it needs more than this times what it has in force."""
_CIDR_SHARE: Final = 0.75
"""The part of ``addresses`` that CIDR lists may take, so that pods always find room."""
_MAX_STEPS: Final = 100
"""Steps of one search. The sets that are left then are closed until the next one."""


@dataclass(frozen=True, slots=True)
class _Closed:
    """Why a policy set is closed, and when it is tried again."""

    reason: str
    delay: float
    retry_at: float
    table: str
    room: int
    """How many entries must be free in a map, so that it is worth a try before the delay is over."""


@dataclass(slots=True)
class _Request:
    """What is to be installed."""

    view: PolicyView
    subjects: Sequence[Pod]
    bound: Sequence[Bound]
    surroundings: Surroundings
    now_ns: int
    free: dict[str, int]
    """The free entries of each map before."""
    obstacles: dict[str, DoesNotFitError] = field(default_factory=dict)
    """Why a policy set does not fit, by set key."""


class Admission:
    """Compiles and installs, and remembers what did not fit. It must be used by one thread."""

    def __init__(self, compiler: Compiler, installer: Installer, clock: Callable[[], float] = time.monotonic) -> None:
        self._compiler, self._installer, self._clock = compiler, installer, clock
        self._closed: dict[str, _Closed] = {}
        self._shares: dict[str, float] = {}
        """The part of the fullest map that each set in force needed when it was admitted, by set key."""
        self._owners: dict[str, str] = {}
        self.incomplete: dict[Name, str] = {}
        """The pods that are closed, and why."""
        self.unlisted = 0
        """How many of the node's own addresses the map ``local_addresses`` has no room for."""
        self._made_room = False
        """Whether some of these may fit now, because the last installation removed others."""
        self.in_force = PoliciesOfEpochs()

    def retry_in(self) -> float | None:
        """Return after how many seconds something that did not fit is tried again; None if everything fits."""
        if len(self._waiting()) < len(self._closed):
            return 0.0
        due = [closed.retry_at - self._clock() for closed in self._closed.values()]
        return max(0.0, min(due)) if due else _FIRST_DELAY_S if self.incomplete or self._made_room else None

    def install(
        self,
        view: PolicyView,
        subjects: Sequence[Pod],
        bound: Sequence[Bound],
        surroundings: Surroundings,
        before_search: Callable[[], None],
    ) -> Installed:
        """Compile and install. ``before_search`` is called before anything that takes longer because not all fits.

        Raises DoesNotFitError if the kernel refuses twice what should fit, and OSError; what was in force stays so.
        """
        request = _Request(view, subjects, bound, surroundings, time.monotonic_ns(), self._free())
        waiting = self._waiting()
        if len(waiting) < len(self._closed) or not self._closed:
            self._installer.forget_refusals()
        try:
            return self._install(request, self._plan(request, waiting))
        except DoesNotFitError:
            before_search()
        try:
            return self._install(request, self._search(request, waiting))
        except DoesNotFitError:
            # The kernel refused what should fit. It is planned for what it takes once more, and then reported.
            return self._install(request, self._search(request, waiting))

    def _install(self, request: _Request, plan: Plan) -> Installed:
        done = self._installer.install(plan, lambda: self._remember(request, plan))
        self.in_force.note(done, self._compiler.subjects)
        self.unlisted = plan.unlisted
        self._made_room = bool(plan.unlisted) and None in plan.local_addresses.values()
        return done

    def _waiting(self) -> set[str]:
        """Return the closed sets that need not be tried now."""
        now, free = self._clock(), self._free()
        return {
            key for key, closed in self._closed.items() if now < closed.retry_at and free[closed.table] < closed.room
        }

    def _free(self) -> dict[str, int]:
        return {name: limit - used for name, (used, limit) in self._installer.usage().items()}

    def _plan(self, request: _Request, closed: Collection[str], omit: Collection[AddressKey] = ()) -> Plan:
        desired = self._compiler.compile(request.view, request.subjects, closed)
        limit = int(_CIDR_SHARE * self._installer.limit("addresses"))
        prefixes = self._compiler.cidr_prefixes
        if prefixes > limit:
            raise DoesNotFitError("addresses", prefixes, limit)
        return self._installer.plan(desired, request.bound, request.now_ns, request.surroundings, omit)

    # --- the search for what fits

    def _search(self, request: _Request, waiting: Collection[str]) -> Plan:
        """Return a plan with as many policy sets as fit, in the order that the module describes."""
        if self._obstacle(request, waiting) is None:
            return self._plan_with_omissions(request, set(waiting))
        order = self._ranked()
        closed = {*order, *waiting}
        at, step = 0, max(1, len(order) // 2)
        for _ in range(_MAX_STEPS):
            batch = order[at : at + step]
            if not batch:
                break
            error = self._obstacle(request, closed.difference(batch))
            if error is None:
                closed.difference_update(batch)
                at, step = at + len(batch), 2 * step
            elif len(batch) > 1:
                step = len(batch) // 2
            else:
                request.obstacles[batch[0]] = error
                at += 1
        return self._plan_with_omissions(request, closed)

    def _obstacle(self, request: _Request, closed: Collection[str]) -> DoesNotFitError | None:
        """Return why the sets that are not closed do not fit, None if they do.

        Where it is only new addresses of the cluster's own that do not fit, no set is to blame.
        """
        try:
            self._plan(request, closed)
        except DoesNotFitError as error:
            if error.table != "addresses" or not error.new:
                return error
            new = _addresses(error.new)
            return None if len(choose_omitted(self._compiler.desired, new, len(new))) == len(new) else error
        return None

    def _plan_with_omissions(self, request: _Request, closed: set[str]) -> Plan:
        omit: frozenset[AddressKey] = frozenset()
        obstacle: DoesNotFitError | None = None
        while True:
            try:
                plan = self._plan(request, closed, omit)
            except DoesNotFitError as error:
                if error.table != "addresses":
                    raise
                more = choose_omitted(self._compiler.desired, _addresses(error.new), error.needed - error.limit)
                if not more:
                    raise
                omit, obstacle = omit | more, error
                continue
            needing = sets_that_need(self._compiler.desired, omit) if omit else set()
            keys = {key for key, number in self._compiler.numbers_of_sets().items() if number in needing}
            if not keys or obstacle is None:
                return plan
            request.obstacles |= dict.fromkeys(keys, obstacle)
            closed |= keys

    def _ranked(self) -> list[str]:
        """Return the keys of all compiled sets, those that must be installed first in front."""
        in_force, owners = self._installer.sets_in_force, self._owners_of_sets()
        used: dict[str, float] = defaultdict(float)
        for key, share in self._shares.items():
            used[self._owners[key]] += share
        by_owner: dict[str, list[tuple[bool, float, str]]] = defaultdict(list)
        for key, number in self._compiler.numbers_of_sets().items():
            by_owner[owners[key]].append((number not in in_force, self._share_of(key), key))
        ranked: list[tuple[bool, bool, float, str]] = []
        for owner, sets in by_owner.items():
            together = 0.0
            for is_new, share, key in sorted(sets):
                together += share
                ranked.append((is_new, together > _GROWTH * used[owner], together, key))
        return [key for *_, key in sorted(ranked)]

    def _share_of(self, key: str) -> float:
        """Return which part a set needs of the map that it needs most of."""
        return max(needed / max(1, self._installer.limit(name)) for name, needed in self._compiler.size_of(key).items())

    def _owners_of_sets(self) -> dict[str, str]:
        """Return the namespace of each set's pods; "" if pods of several namespaces share it."""
        owners: dict[str, str] = {}
        for subject in self._compiler.subjects:
            namespace = subject.pod.namespace
            owners[subject.set_key] = namespace if owners.get(subject.set_key, namespace) == namespace else ""
        return owners

    # --- what is remembered

    def _remember(self, request: _Request, plan: Plan) -> None:
        numbers = self._compiler.numbers_of_sets()
        self._owners = self._owners_of_sets()
        self._shares = {key: self._shares.get(key) or self._share_of(key) for key in numbers}
        self._closed = {key: self._closing(key, request) for key in self._owners.keys() - numbers.keys()}
        self.incomplete = self._named(request, plan)

    def _closing(self, key: str, request: _Request) -> _Closed:
        before, error = self._closed.get(key), request.obstacles.get(key)
        if before is not None and error is None:
            return before
        delay = _FIRST_DELAY_S if before is None else min(2 * before.delay, _LONGEST_DELAY_S)
        if error is None:
            return _Closed("it was not tried yet", delay, self._clock() + delay, "policy_entries", 1 << 32)
        room = request.free[error.table] + error.needed - error.limit
        return _Closed(str(error), delay, self._clock() + delay, error.table, room)

    def _named(self, request: _Request, plan: Plan) -> dict[Name, str]:
        named: dict[Name, str] = {}
        for subject in self._compiler.subjects if self._closed else ():
            if subject.set_key in self._closed:
                policies = ", ".join(sorted({str(applied.policy.key) for applied in subject.policies}))
                reason = f"its policies ({policies}) do not fit: {self._closed[subject.set_key].reason}"
                named[subject.pod.key] = reason
        pods = {pod.uid: pod for pod in request.subjects} if plan.left_out else {}
        is_full = self._installer.usage()["endpoints"][0] >= self._installer.limit("endpoints")
        full = "endpoints" if is_full else "local_addresses"
        for end in plan.left_out:
            named[pods[end.uid].key] = f"the map {full} is full: raise WEIR_{full.upper()}"
        return named


def _addresses(keys: Iterable[bytes]) -> list[AddressKey]:
    """Return keys of the map ``addresses`` as the compiler has them."""
    return [(address.to_bytes(16, "big"), length) for length, address in map(entries.prefix_of, keys)]
