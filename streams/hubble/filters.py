"""What Hubble's filters mean for a record: pure functions, each made from one field of a FlowFilter.

THEORY OF OPERATION

1. All fields of a filter must fit; of the values of one field any one may. So it is in Hubble.
2. A request has filters of which any one must fit (the whitelist; none: everything), and filters of which none may (the
   blacklist).
3. A field that asks for what no record has, such as a path of HTTP, is refused by its name, and so is a field that this
   server does not know. A filter that is passed over would show flows that were not asked for, and one that never fits
   looks like a cluster without traffic.
4. Nothing is matched by regular expressions: Hubble's patterns for names only have ``*``, which
   :func:`streams.hubble.field_tests.is_like` compares in time that grows with the product of both lengths. A pattern
   cannot keep the server busy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from enrich.wire.flow import Flow
from streams.hubble import words
from streams.hubble.field_tests import MAKERS, NO_LAYER_7, Test, namespaced
from streams.hubble.labels import SelectorError
from streams.hubble.messages import fields_of, unknown_numbers

_MAX_FILTERS: Final = 64
_MAX_VALUES: Final = 1000
"""Values of all filters of a request together."""
_MAX_LENGTH: Final = 1024
_REFUSED: Final = {
    **dict.fromkeys(("http_status_code", "http_method", "http_path", "http_url", "http_header"), NO_LAYER_7),
    "dns_query": NO_LAYER_7,
    **dict.fromkeys(("source_fqdn", "destination_fqdn"), "records have no DNS names; use pods, Services or addresses"),
    "tcp_flags": "records have no TCP flags: a record is about who opens a connection",
    "source_ip_xlated": "records have no address after SNAT",
    "node_labels": "records have no labels of nodes; use node_name",
    "interface": "records have no interface",
    "encrypted": "records do not say what was encrypted",
    "trace_id": "records have no trace",
    "ip_trace_id": "records have no trace",
    "experimental": "CEL over Hubble's flows is not supported; `weir observe --cel` has it for records",
}
"""Why a field cannot be answered."""


class FilterError(ValueError):
    """A filter cannot be answered. The message names it, and says why."""


class FlowFilters:
    """Which records a request asks for."""

    def __init__(self, whitelist: Sequence[Any], blacklist: Sequence[Any], labels: Sequence[str]) -> None:
        """``labels``: the patterns of labels that records have, as in WEIR_LABELS. Raises FilterError."""
        self._bounded(whitelist, blacklist)
        self._white = [tuple(_tests("whitelist", one, labels)) for one in whitelist]
        self._black = [tuple(_tests("blacklist", one, labels)) for one in blacklist]
        asked = {verdict for one in whitelist for verdict in one.verdict}
        is_any = not whitelist or any(not one.verdict for one in whitelist)
        self.may_be_denied = is_any or bool(asked & {words.DROPPED, words.AUDIT})
        """Whether denials or audits may fit."""
        self._texts = [_texts(one) for one in whitelist]

    @staticmethod
    def _bounded(*lists: Sequence[Any]) -> None:
        filters = [one for found in lists for one in found]
        values = [value for one in filters for _, found in one.ListFields() for value in _many(found)]
        if len(filters) > _MAX_FILTERS or len(values) > _MAX_VALUES:
            raise FilterError(
                f"{len(filters)} filters with {len(values)} values: at most {_MAX_FILTERS} with {_MAX_VALUES} are taken"
            )
        if any(isinstance(value, str) and len(value) > _MAX_LENGTH for value in values):
            raise FilterError(f"a value is longer than {_MAX_LENGTH} characters")

    def may_match(self, value: bytes) -> bool:
        """Return False for a record that surely does not fit, by its bytes alone."""
        return not self._texts or any(all(text in value for text in texts) for texts in self._texts)

    def match(self, flow: Flow, _value: bytes) -> bool:
        """Return whether a record fits."""
        if self._white and not any(all(test(flow) for test in tests) for tests in self._white):
            return False
        return not any(all(test(flow) for test in tests) for tests in self._black)


def _many(found: Any) -> Sequence[Any]:
    return [found] if isinstance(found, str | bytes | int | float | bool) or hasattr(found, "ListFields") else found


def _texts(one: Any) -> list[bytes]:
    """Return texts that each record has which fits a filter."""
    names = [*(one.uuid if len(one.uuid) == 1 else ())]
    for field in (one.source_pod, one.destination_pod, one.source_service, one.destination_service):
        if len(field) == 1:
            names.append(namespaced(field[0])[0])
    return [f'"{name}"'.encode() for name in names if name and all(c.isalnum() or c in "-." for c in name)]


def _tests(where: str, one: Any, labels: Sequence[str]) -> Iterator[Test]:
    for number in unknown_numbers(one):
        raise FilterError(f"{where}: this server does not know the filter with the number {number}")
    for field, found in one.ListFields():
        name, values = field.name, list(_many(found))
        if name in _REFUSED:
            raise FilterError(f"{where}: the filter {name} cannot be answered: {_REFUSED[name]}")
        try:
            yield MAKERS[name](values, labels)
        except (ValueError, SelectorError) as error:
            raise FilterError(f"{where}: the filter {name}: {error}") from error


assert MAKERS.keys() | _REFUSED.keys() == fields_of("FlowFilter").keys()  # noqa: S101 - each filter is one or the other
