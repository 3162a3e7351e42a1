"""The question that the address of a view asks: the filters of `weir observe` as its parameters.

``?namespace=shop&verdict=deny&not.port=53&since=5m`` means what ``weir observe -n shop --verdict deny --not --port 53
--since 5m`` means. A mistake is said at the parameter that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from enrich.parse.spelling import nearest
from streams.observing.choice import Choice
from streams.observing.filter_options import FilterError, read_choice, read_filters
from streams.observing.observe import Window, parse_since

FIELDS: Final = {
    "namespace": "namespaces", "pod": "pods", "subject": "subjects", "workload": "workloads", "from": "sources",
    "to": "destinations", "cidr": "networks", "service": "services", "node": "nodes", "verdict": "verdicts",
    "direction": "directions", "port": "ports", "protocol": "protocols", "label": "labels", "policy": "policies",
    "reason": "reasons", "cluster": "clusters", "id": "ids",
}  # fmt: skip
"""The parameters, named as the options of `weir observe`, and the fields of Filters that they mean."""
NOT: Final = "not."
_MAX_VALUES: Final = 100
_MAX_LENGTH: Final = 300


class QueryError(ValueError):
    """A parameter can fit nothing. ``field`` is its name, empty if no single one is wrong."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class Query:
    """What a view shows."""

    choice: Choice
    window: Window | None


def read_query(parameters: Iterable[tuple[str, str]], now: datetime | None = None) -> Query:
    """Return what the parameters of a view mean. Raises :class:`QueryError`."""
    given: dict[str, list[str]] = {}
    turned: dict[str, list[str]] = {}
    times: dict[str, str] = {}
    for count, (name, value) in enumerate(parameters):
        text = value.strip()
        if count >= _MAX_VALUES:
            raise QueryError("", f"a view has {_MAX_VALUES} filters at most")
        if len(text) > _MAX_LENGTH:
            raise QueryError(name, f"a filter has {_MAX_LENGTH} characters at most")
        if not text:
            continue
        if name in ("since", "until"):
            times[name] = text
        else:
            field = name.removeprefix(NOT)
            if field not in FIELDS:
                near = nearest(field, FIELDS)
                raise QueryError(name, f"there is no filter {field!r}{f'; did you mean {near}?' if near else ''}")
            (turned if name.startswith(NOT) else given).setdefault(field, []).append(text)
    return Query(_choice(given, turned), _window(times, now or datetime.now(UTC)))


def _choice(given: dict[str, list[str]], turned: dict[str, list[str]]) -> Choice:
    required, excluded = _checked(given, ""), _checked(turned, NOT)
    try:
        return read_choice(required, excluded)
    except FilterError as error:
        raise QueryError("", str(error)) from error


def _checked(values: dict[str, list[str]], prefix: str) -> dict[str, list[Any]]:
    """Return the values by the fields of Filters, each checked alone, so that a mistake has a place."""
    found = {}
    for name, texts in values.items():
        try:
            read = [_READERS[name](text) if name in _READERS else text for text in texts]
            read_filters({FIELDS[name]: read}, are_together=False)
        except ValueError as error:
            raise QueryError(f"{prefix}{name}", str(error)) from error
        found[FIELDS[name]] = read
    return found


def _window(times: dict[str, str], now: datetime) -> Window | None:
    found = {}
    for name, text in times.items():
        try:
            found[name] = parse_since(text, now)
        except ValueError as error:
            raise QueryError(name, str(error)) from error
        if found[name] > now:
            raise QueryError(name, f"{text} is in the future")
    if "until" in found and "since" not in found:
        raise QueryError("until", "needs a beginning, too (since)")
    if "since" not in found:
        return None
    if found["since"] >= found.get("until", now):
        raise QueryError("since", f"{times['since']} is not before the end of the view")
    return Window(found["since"], found.get("until"))


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"{text!r} must be one of {', '.join(words)}")
        return text.lower()

    return read


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError(f"{text!r} must be a port, a number up to 65535")
    return int(text)


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "verdict": _one_of("allow", "deny", "audit"),
    "direction": _one_of("ingress", "egress"),
    "port": _port,
}
