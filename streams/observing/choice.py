"""Which flows `weir observe` shows: those that fit all conditions that are required, and none of those that are not.

THEORY OF OPERATION

Example: ``--pod shop/web-0 --not --port 53 --not --reason node --cel 'flow.count > 1'``. For each record, in this
order, because each step costs more than the one before:

1. *Bytes.* A record that the options want has the text ``"web-0"`` somewhere. One without it is dropped undecoded.
2. *Wanted.* The decoded record fits every field that is given; of the values of one field any may fit.
3. *Excluded.* It fits no value of any field behind ``--not``.
4. *Expressions.* Each expression is true for it. Behind ``--not``, it is false.

An expression that cannot be evaluated for a record (it has no such field, or a text was compared with a number) is
neither true nor false: the record is not shown, with or without ``--not``, and the command
says so at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from enrich.wire.flow import Flow
from streams.observing.filters import Filters
from streams.observing.record_search import ID

_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")
"""Texts that JSON has as they are, and that are no patterns."""
_NOTHING: Final = Filters()


class Expression(Protocol):
    """A condition in a language; see :class:`streams.observing.expression.CelExpression`."""

    why: str
    """Why it could not be evaluated for a record, the first of such; empty if there was none."""

    def holds(self, value: bytes) -> bool | None:
        """Return whether it is true for a record; None if it cannot be evaluated."""


class FlowTest(Protocol):
    """Says which records are shown."""

    def may_match(self, value: bytes) -> bool:
        """Return False for a record that surely does not fit, by its bytes alone."""
        ...

    def match(self, flow: Flow, value: bytes) -> bool:
        """Return whether to show a record."""
        ...


class Choice:
    """What to show."""

    def __init__(
        self,
        required: Filters,
        excluded: Filters = _NOTHING,
        expressions: Sequence[Expression] = (),
        excluding: Sequence[Expression] = (),
    ) -> None:
        """``excluded`` and ``excluding`` are the conditions and the expressions behind ``--not``."""
        self.required = required
        self._expressions, self._excluding = expressions, excluding
        self._tests, self._excluded = tuple(required.tests()), tuple(excluded.tests())
        self._texts = tuple(_texts(required))

    def may_match(self, value: bytes) -> bool:
        """Return False for a record that surely does not fit, by its bytes alone."""
        return all(any(text in value for text in texts) for texts in self._texts)

    def match(self, flow: Flow, value: bytes) -> bool:
        """Return whether to show a record."""
        if not all(test(flow) for test in self._tests) or any(test(flow) for test in self._excluded):
            return False
        return all(one.holds(value) is True for one in self._expressions) and all(
            one.holds(value) is False for one in self._excluding
        )

    def has_exact_ids(self) -> bool:
        """Return whether only records with some whole ids are wanted."""
        ids = self.required.ids
        return bool(ids) and all(ID.fullmatch(one) and "*" not in one for one in ids)

    def subject_keys(self) -> list[bytes] | None:
        """Return the keys that the records have, if the options name their subjects; None if they may have any.

        A record is keyed by its subject, the pod whose policy decided: its source for egress, and its destination for
        ingress."""
        pods = self.required.subjects
        if not pods and set(self.required.directions) == {"egress"}:
            pods = self.required.sources
        elif not pods and set(self.required.directions) == {"ingress"}:
            pods = self.required.destinations
        is_exact = bool(pods) and all(_is_whole_name(pod) for pod in pods)
        return [pod.encode() for pod in pods] if is_exact else None

    def problems(self) -> Iterator[str]:
        """Yield a line for each expression that could not be evaluated for some records."""
        for one in (*self._expressions, *self._excluding):
            if one.why:
                yield f"--cel could not be evaluated for some records, which are not shown. Of the first: {one.why}"


def _is_whole_name(pod: str) -> bool:
    """Return whether it is the NAMESPACE/NAME of one pod: no pattern, no address, no network."""
    namespace, slash, name = pod.partition("/")
    # A network has its prefix behind the slash, and a namespace has no dot and no colon.
    is_network = "." in namespace or ":" in namespace
    return bool(slash and namespace and name) and not is_network and "*" not in pod


def _texts(filters: Filters) -> Iterator[list[bytes]]:
    """Yield, for each field whose values are all plain names, the texts of which a record that fits has one."""
    for values in (
        filters.ids, filters.subjects, filters.pods, filters.policies, filters.services, filters.workloads,
        filters.namespaces, filters.nodes, filters.verdicts, filters.reasons, filters.directions,
    ):  # fmt: skip
        names = [value.rpartition("/")[2] for value in values]
        if names and all(map(_PLAIN.fullmatch, names)):
            yield [f'"{name}"'.encode() for name in names]
