"""Label selectors as Hubble's filters have them: ``app=web,tier in (a,b),!canary``, with ``k8s:`` before a key or not.

Records have the labels that WEIR_LABELS chooses. A question about another label is refused, because a record cannot
say that a pod did not have it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from enrich.wire.flow import End
from streams.hubble.words import IDENTITIES

_KEY: Final = r"(?:(?P<source>[a-z0-9]+):)?(?P<key>[A-Za-z0-9][A-Za-z0-9_./-]*)"
_REQUIREMENT: Final = re.compile(
    rf"(?P<absent>!)?{_KEY}(?:(?P<equal>==|=|!=)(?P<value>[A-Za-z0-9_.-]*)|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?"
)
_VALUE: Final = re.compile(r"[A-Za-z0-9_.-]*")
_MAX_REQUIREMENTS: Final = 50


class SelectorError(ValueError):
    """A selector cannot be read, or asks for what records do not have."""


@dataclass(frozen=True, slots=True)
class _Requirement:
    key: str
    values: frozenset[str] | None
    """Those of which the label must have one; None: any."""
    is_negated: bool

    def holds(self, labels: dict[str, str]) -> bool:
        has = self.key in labels and (self.values is None or labels[self.key] in self.values)
        return has != self.is_negated


class LabelSelector:
    """A selector. An end whose labels are not known fits none."""

    def __init__(self, text: str, chosen: Sequence[str]) -> None:
        """``chosen``: the patterns of the labels that records have. Raises SelectorError."""
        parts = [part.strip() for part in re.split(r",(?![^(]*\))", text)]
        if not text.strip() or len(parts) > _MAX_REQUIREMENTS:
            raise SelectorError(f"a selector has 1 to {_MAX_REQUIREMENTS} requirements, such as app=web,!canary")
        self._reserved: list[tuple[str, bool]] = []
        self._requirements: list[_Requirement] = []
        for part in parts:
            self._read(part, chosen)

    def _read(self, part: str, chosen: Sequence[str]) -> None:
        found = _REQUIREMENT.fullmatch(part)
        if found is None or (found["absent"] and (found["equal"] or found["set"])):
            raise SelectorError(f"{part[:60]!r} is no requirement such as KEY, !KEY, KEY=VALUE, KEY in (VALUE,VALUE)")
        key, source = found["key"], found["source"] or "any"
        if source == "reserved":
            if key not in IDENTITIES.values() or found["equal"] or found["set"]:
                raise SelectorError(f"{part[:60]!r}: records tell reserved:{', reserved:'.join(IDENTITIES.values())}")
            self._reserved.append((key, bool(found["absent"])))
            return
        if source not in {"any", "k8s"}:
            raise SelectorError(f"{part[:60]!r}: labels are of k8s: or reserved:")
        if not any(fnmatchcase(key, pattern) for pattern in chosen):
            raise SelectorError(f"records do not have the label {key[:60]!r}: WEIR_LABELS is {','.join(chosen) or '-'}")
        values = None
        if found["equal"]:
            values = frozenset({found["value"]})
        elif found["set"]:
            values = frozenset(value.strip() for value in found["values"].split(","))
            if not all(map(_VALUE.fullmatch, values)):
                raise SelectorError(f"{part[:60]!r}: a value is no value of a label")
        is_negated = bool(found["absent"]) or found["equal"] == "!=" or found["set"] == "notin"
        self._requirements.append(_Requirement(key, values, is_negated))

    def matches(self, end: End, identity: int) -> bool:
        """Return whether an end fits; ``identity`` is its reserved one, or 0."""
        name = IDENTITIES.get(identity, "")
        if any((name == known) == is_negated for known, is_negated in self._reserved):
            return False
        if not self._requirements:
            return True
        labels = {} if name else end.labels
        return labels is not None and all(one.holds(labels) for one in self._requirements)
