"""Chooses the labels by which a policy selects some pods and no others.

An example: the pods of the Deployment ``web`` have the labels ``app=web, version=3``, those of ``api`` have ``app=api,
version=3``. The choice for ``web`` is ``app=web``: one label is enough, and the version changes with each release.

Labels that people give to say what a pod is come first, labels that change from release to release last, and among
equals those that tell more of the other pods apart. If the labels that all pods have in common are not enough, others
are excluded by what only they have (``canary`` DoesNotExist). Pods with equal labels cannot be told apart: the choice
then says which others it selects, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from enrich.label_selector import Operator, Requirement, Selector
from enrich.model import Labels
from enrich.policy import selectors

PREFERRED: Final = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app",
    "k8s-app",
    "name",
    "component",
    "tier",
    "role",
)
"""Labels that say what a pod is. "Recommended Labels" of Kubernetes' documentation, then what people used before."""
CHANGING: Final = frozenset(
    ("app.kubernetes.io/version", "app.kubernetes.io/managed-by", "chart", "helm.sh/chart", "heritage", "version")
)
"""Labels that change with a release, or that say nothing of the pod."""
_MAX_VALUES: Final = 8
"""A label with more values than this among the pods of one workload does not say what they are."""


class _Rank(NamedTuple):
    """Orders requirements by how well they say what a pod is; the least is the best."""

    changing: bool
    form: int
    """0: one value; 1: several values; 2: a label that the others have; 3: values that the others have."""
    preference: int
    key: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A selector that matches all the pods, and which of the others it matches too, by index."""

    selector: Selector
    also: tuple[int, ...] = ()


def choose(inside: Sequence[Labels], outside: Sequence[Labels]) -> Choice:
    """Return a selector that matches all of ``inside``, and as few of ``outside`` as label selectors can."""
    candidates = sorted(_candidates(inside, outside), key=_rank)
    excluded = {
        one: frozenset(index for index, labels in enumerate(outside) if not selectors.requirement_matches(one, labels))
        for one in candidates
    }
    # One label that says what the pods are is asked for even where nothing needs to be told apart today.
    chosen = [one for one in candidates if _says_what_it_is(one)][:1]
    waiting = frozenset(range(len(outside))).difference(*(excluded[one] for one in chosen))
    while waiting:
        useful = [one for one in candidates if excluded[one] & waiting]
        if not useful:
            break
        best = min(useful, key=lambda one: (_cost(one), -len(excluded[one] & waiting), _rank(one)))
        chosen.append(best)
        waiting -= excluded[best]
    chosen = _without_needless(chosen, excluded)
    # A manifest has labels with one value first (matchLabels), then the others.
    ordered = sorted(chosen, key=lambda one: (_rank(one).form != 0, one.key))
    return Choice(Selector(tuple(ordered)), tuple(sorted(waiting)))


def _candidates(inside: Sequence[Labels], outside: Sequence[Labels]) -> Iterable[Requirement]:
    """Yield every requirement that all of ``inside`` meet and that may exclude others."""
    for key in sorted({key for labels in (*inside, *outside) for key in labels}):
        values = {labels[key] for labels in inside if key in labels}
        if not values:
            yield Requirement(key, Operator.DOES_NOT_EXIST)
        elif len(values) <= _MAX_VALUES and all(key in labels for labels in inside):
            yield Requirement(key, Operator.IN, tuple(sorted(values)))
        elif others := {labels[key] for labels in outside if key in labels} - values:
            yield Requirement(key, Operator.NOT_IN, tuple(sorted(others)))


def _rank(one: Requirement) -> _Rank:
    forms = {Operator.DOES_NOT_EXIST: 2, Operator.NOT_IN: 3}
    form = forms.get(one.operator, 0 if len(one.values) == 1 else 1)
    preference = PREFERRED.index(one.key) if one.key in PREFERRED else len(PREFERRED)
    return _Rank(one.key in CHANGING, form, preference, one.key)


def _cost(one: Requirement) -> tuple[bool, bool]:
    """Return what counts more than how many others a requirement excludes."""
    rank = _rank(one)
    return rank.changing, rank.form >= 2


def _says_what_it_is(one: Requirement) -> bool:
    """Return whether a requirement is one label that does not change from release to release."""
    rank = _rank(one)
    return rank.form == 0 and not rank.changing


def _without_needless(chosen: list[Requirement], excluded: dict[Requirement, frozenset[int]]) -> list[Requirement]:
    """Leave out requirements whose work the others do, the least welcome first. One label that says what the pods are
    stays in any case: ``version=1`` alone would select a pod of anybody tomorrow."""
    kept = list(chosen)
    for one in sorted(chosen, key=_rank, reverse=True):
        rest = [other for other in kept if other is not one]
        if _says_what_it_is(one) and not any(map(_says_what_it_is, rest)):
            continue
        if rest and excluded[one] <= frozenset().union(*(excluded[other] for other in rest)):
            kept = rest
    return kept
