"""The columns that ``--fields`` shows and ``--by`` counts by: the fields of alert rules, and a few more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from enrich.parse.spelling import nearest
from enrich.wire.flow import Flow
from streams.alerts.fields import FLOW_FIELDS, flow_field

Read = Callable[[Flow], str]

_OF_RECORDS: Final[Mapping[str, Read]] = {
    "time": lambda flow: flow.timestamp,
    "id": lambda flow: flow.id,
    "count": lambda flow: str(flow.count),
}
"""Fields that differ from record to record: nothing is counted by them."""
_OF_TIMES: Final[Mapping[str, Read]] = {
    "day": lambda flow: flow.timestamp[:10],
    "hour": lambda flow: f"{flow.timestamp[:13]}:00",
    "minute": lambda flow: flow.timestamp[:16],
}
_OF_ENDS: Final[Mapping[str, Read]] = {
    "src": lambda flow: flow.text("src", ""),
    "dest": lambda flow: flow.text("dest", ""),
}
_SHORT: Final[Mapping[str, Read]] = {
    "namespace": FLOW_FIELDS["subject.namespace"],
    "workload": FLOW_FIELDS["subject.name"],
}
"""Short names for fields of the subject, whose policy decided."""
NUMBERS: Final = frozenset({"count", "port"})
"""Fields that JSON has as numbers."""
OTHERS: Final = "(others)"
"""Stands in the place of the fields of groups that are counted together, because there are too many."""


class ColumnError(ValueError):
    """There is no such column. The message says which there are."""


def read_columns(option: str, text: str, *, counted: bool = False) -> Mapping[str, Read]:
    """Return the columns that a list of names, with commas between them, means. Raises :class:`ColumnError`.

    ``counted``: records are counted by them."""
    known = {**({} if counted else _OF_RECORDS), **_OF_TIMES, **_SHORT, **_OF_ENDS, **FLOW_FIELDS}
    found: dict[str, Read] = {}
    for name in (one.strip() for one in text.split(",")):
        read = known.get(name) or (flow_field(name) if ".labels." in name else None)
        if read is None:
            raise ColumnError(_unknown(option, name, known, counted=counted))
        if name in found:
            raise ColumnError(f"{option} names {name} twice")
        found[name] = read
    return found


def row_of(columns: Mapping[str, Read], flow: Flow) -> list[str]:
    """Return the texts of the columns for a record."""
    return [read(flow) for read in columns.values()]


def as_object(names: Sequence[str], row: Sequence[str]) -> dict[str, str | int | None]:
    """Return the columns of a record as a JSON object. What the record does not have is null."""
    return {
        name: None if not text else int(text) if name in NUMBERS else text
        for name, text in zip(names, row, strict=True)
    }


def _unknown(option: str, name: str, known: Mapping[str, Read], *, counted: bool) -> str:
    if not name:
        return f"{option} has an empty name: write names with commas between them, such as src,dest,port"
    if counted and name in _OF_RECORDS:
        return f"{option} {name}: it differs from record to record; count by day, hour or minute, or by a name"
    near = nearest(name, known)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}, and SIDE.labels.KEY"
    return f"{option}: a record has no field {name}; {hint}"
