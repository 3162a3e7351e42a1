"""Keeps what is logged equal to NetworkLogging, its annotations and the settings.

Theory of operation. ``bpf/logging.h`` says what the kernel reads: one word and two lists, which enforcement does not
read. At each pass the agent calls :meth:`VerdictLogging.follow` before it installs policy:

1. The NetworkLogging ``default`` says what is logged. Without one, and on clusters without the kind, the settings do.
   While it is not valid, the last valid one stays in force; the word in the kernel holds that one too, so that a probe
   that starts knows it. Before the kind has been listed, what the word says stays in force.
2. If policies must ask for it, each rule whose list of policies has some that ask is listed, with the number of the
   list that has only these. If namespaces must ask, the endpoints of their pods are listed.
3. A new policy makes new rules. The installer calls :meth:`VerdictLogging.write` before it switches to them, so that
   the first connection by a new rule is logged.

A mistake here never changes enforcement, and never raises. If the lists cannot be written, everything in that
class is logged, because too much can be filtered later and too little is gone; :meth:`VerdictLogging.notes` says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import structlog

from enrich.index.cluster import Cluster
from enrich.model import Name, Pod
from enrich.network_logging import ONLY_NAME
from enrich.policy.matching import PolicyView
from enrich.wire.batch import PolicyRef
from probe.kernel.endpoints import Bound
from probe.kernel.logged_verdicts import LoggedVerdicts
from probe.kernel.maps import Maps
from probe.kernel.room import InstallError
from probe.ledger import Ledger
from probe.policy.logging import (
    Logged,
    LoggingDefaults,
    PolicyId,
    Word,
    asks_for_denied,
    last_spec,
    make_word,
    modes_of,
    named_refs,
    policies_that_ask,
    suspicious_annotations,
)
from probe.policy.policy_entries import number_of_rule

log = structlog.get_logger("kubeweir.probe")

_MAX_NOTES: Final = 20
"""So many suspicious annotations are on /readyz."""
_WORDS: Final = {Logged.ALL: "all", Logged.NONE: "none", Logged.LISTED: "delegated"}


class VerdictLogging:
    """What is logged on this node. The agent's thread changes it; any thread may ask for notes."""

    def __init__(
        self, cluster: Cluster, ledger: Ledger, maps: Maps, rules: Mapping[int, tuple[PolicyRef, ...]]
    ) -> None:
        """``rules`` are the compiler's, by number; the compiler adds to them."""
        self._cluster, self._ledger, self._rules = cluster, ledger, rules
        self._kernel = LoggedVerdicts(maps)
        self.defaults = LoggingDefaults()
        """What the settings say."""
        self._last = last_spec(self._kernel.word)
        self._word = make_word(self._last, self.defaults)
        self._asking: frozenset[PolicyId] = frozenset()
        self._named: dict[int, int] = {}
        """For each rule, the rule as which it is logged, by the policies that ask now; 0: it is not logged."""
        self._subjects: Collection[int] = ()
        self._seen: PolicyView | None = None
        self.invalid = ""
        """What is wrong with the NetworkLogging; empty if nothing is."""
        self.suspicious: dict[str, str] = {}
        """Annotations that ask for nothing because their value is not ``true``, by object. Replaced as a whole."""
        self._unwritten = ""
        ledger.reserve("rule", max(self.references()["rule"], default=0))

    @property
    def modes(self) -> dict[str, str]:
        """What the kernel logs of each class now: all, none or delegated."""
        return _modes(self._kernel.word)

    def notes(self) -> list[str]:
        """Return what is wrong with the NetworkLogging and its annotations, a line each."""
        lines = [f"logging: {self._unwritten}"] if self._unwritten else []
        if self.invalid:
            lines.append(f"logging: NetworkLogging {ONLY_NAME} is not valid, so {self._instead()}: {self.invalid}")
        found = sorted(self.suspicious.items())
        lines += [
            f"logging: {what}: {value!r} is not 'true', and counts as not set" for what, value in found[:_MAX_NOTES]
        ]
        return lines + [f"logging: {len(found) - _MAX_NOTES} more annotations that are not 'true'"] * (
            len(found) > _MAX_NOTES
        )

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger that the lists have, or are to have once they fit, by kind."""
        return {"rule": self._kernel.rules() | set(self._named.values()) - {0}}

    def follow(self, view: PolicyView, subjects: Iterable[Pod], bound: Iterable[Bound]) -> None:
        """Put in force what the cluster's objects say now, for the local pods and their endpoints."""
        self._read_object()
        word = make_word(self._last, self.defaults)
        if word != self._word:
            self._word = word
            by = "NetworkLogging" if word.last else "the settings"
            log.info("what is logged has changed", **_modes(word.encode()), by=by)
        self._read_annotations(view)
        namespaces = {pod.uid: pod.namespace for pod in subjects}
        self._subjects = ()
        if word.denied is Logged.LISTED:
            asking = {name for name in set(namespaces.values()) if asks_for_denied(view.namespaces, name)}
            self._subjects = [end.number for end in bound if namespaces.get(end.uid) in asking]
        # After a start, the last probe's list stays until policy is compiled: without rules, it would be emptied.
        if self._rules or word.allowed is not Logged.LISTED:
            self.write()

    def write(self) -> None:
        """Write the lists for the rules that the compiler has now, and the word."""
        problem = ""
        try:
            rules = self._listed_rules()
            self._kernel.write(self._word.encode(), rules, self._subjects, _with_all(self._word).encode())
        except (InstallError, OSError) as error:
            problem = f"the lists of what is logged cannot be written, so all of it is logged: {error}"
            if not self._unwritten:
                log.error("the lists of what is logged cannot be written, so all of it is logged", error=str(error))
        self._unwritten = problem

    def _listed_rules(self) -> dict[int, int]:
        """Return the rules that are logged, if policies must ask for it, with the rule that each is logged as."""
        if self._word.allowed is not Logged.LISTED:
            self._named.clear()
            return {}
        new = [number for number in self._rules if number not in self._named]
        for number in new:
            named = named_refs(self._rules[number], self._asking)
            self._named[number] = number_of_rule(self._ledger, named) if named else 0
        if len(self._named) > len(self._rules):
            self._named = {number: named for number, named in self._named.items() if number in self._rules}
        if new:
            self._ledger.flush()
        return {number: named for number, named in self._named.items() if named}

    def _read_object(self) -> None:
        objects = self._cluster.network_loggings()
        if objects is None:
            return
        found = objects.get(Name("", ONLY_NAME))
        invalid = found.invalid if found else ""
        if not invalid:
            self._last = found.spec if found else None
        self.invalid = invalid

    def _read_annotations(self, view: PolicyView) -> None:
        """Find the policies that ask, and annotations that are suspicious, if any object has changed."""
        last, self._seen = self._seen, view
        if last is not None and (
            last.policies is view.policies
            and last.cluster_policies is view.cluster_policies
            and last.namespaces is view.namespaces
        ):
            return
        asking = policies_that_ask(view)
        if asking != self._asking:
            self._asking = asking
            self._named.clear()
        found = suspicious_annotations(view)
        for what, value in found.items():
            if self.suspicious.get(what) != value:
                log.warning("an annotation asks for nothing, because its value is not 'true'", what=what, value=value)
        self.suspicious = found

    def _instead(self) -> str:
        return "the last valid one stays in force" if self._last is not None else "the settings say what is logged"


def _modes(word: int) -> dict[str, str]:
    return {verdicts: _WORDS[logged] for verdicts, logged in modes_of(word).items()}


def _with_all(word: Word) -> Word:
    """Return the word that logs all of each class of which only what is listed is to be logged."""
    return word._replace(
        allowed=Logged.ALL if word.allowed is Logged.LISTED else word.allowed,
        denied=Logged.ALL if word.denied is Logged.LISTED else word.denied,
    )
