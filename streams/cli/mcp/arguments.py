"""What clients may ask: a JSON schema made from a command's options, and the words of the command that arguments mean.

Every value is joined to the name of its option: ``pod`` with the value ``--kafka=elsewhere`` becomes
``--pod=--kafka=elsewhere``, and no pod has that name. None of these options takes a path. The command itself checks the
values: it refuses filters that can fit nothing, and times that cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import click
import jsonschema

from enrich.parse.spelling import nearest
from streams.cli.negation import NOT, Condition
from streams.cli.terminal import printable

MAX_POLICIES: Final = 64 << 10
"""Characters of policies that a client passes."""
_MAX_VALUE: Final = 300
_MAX_VALUES: Final = 20
_NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f]*(?![\s\S])"
"""Not with ``$``, which Python finds before a line break at the end, too."""
_NOT: Final = "not"
_MAX_SHOWN: Final = 200
Json = dict[str, Any]


class ArgumentError(ValueError):
    """An argument cannot be used; the message names it and says why."""


def text_schema(about: str, most: int = _MAX_VALUE) -> Json:
    """Return the schema of a text on one line."""
    return {"type": "string", "minLength": 1, "maxLength": most, "pattern": _NO_CONTROLS, "description": about}


def options_schema(command: click.Command, names: Iterable[str]) -> Json:
    """Return the schemas of some of a command's options by their names, which are the long ones without dashes."""
    known = _long_options(command)
    return {name: _option_schema(known[name]) for name in names}


def conditions_of(command: click.Command) -> list[str]:
    """Return the names of the options that are conditions of `weir observe`, but those of an extra."""
    return [name for name, one in _long_options(command).items() if isinstance(one, Condition) and name != "cel"]


def with_not(properties: Json, conditions: Sequence[str]) -> Json:
    """Return the schemas of arguments, and beside them those of the conditions that leave flows out."""
    turned = {
        "type": "object",
        "description": "Leave out the flows that fit any of these conditions.",
        "properties": {name: properties[name] for name in conditions},
        "additionalProperties": False,
    }
    return {**properties, _NOT: turned}


def _long_options(command: click.Command) -> dict[str, click.Option]:
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    return {long[2:]: one for one in options for long in one.opts if long.startswith("--")}


def _option_schema(option: click.Option) -> Json:
    about = option.help or ""
    if option.is_flag:
        return {"type": "boolean", "description": about}
    made = _value_schema(option.type, about)
    if isinstance(option.default, str):
        made["default"] = option.default
    if not option.multiple:
        return made
    return {"type": "array", "items": made, "minItems": 1, "maxItems": _MAX_VALUES, "description": about}


def _value_schema(kind: click.ParamType, about: str) -> Json:
    if isinstance(kind, click.Choice):
        return {"enum": list(kind.choices), "description": about}
    if isinstance(kind, click.IntRange):
        bounds = {"minimum": kind.min, "maximum": kind.max}
        return {"type": "integer", "description": about, **{key: one for key, one in bounds.items() if one is not None}}
    return text_schema(about)


def check(schema: Json, arguments: Mapping[str, Any]) -> None:
    """Raise :class:`ArgumentError` if arguments are not of a schema. It has a line for each mistake."""
    mistakes = sorted(jsonschema.Draft202012Validator(schema).iter_errors(arguments), key=lambda one: list(one.path))
    lines = [line for mistake in mistakes for line in _explained(mistake)]
    # A JSON text may have what no argument of a process can.
    lines += [f"{name}: has characters that are not text" for name in _not_text(arguments)]
    if lines:
        raise ArgumentError("\n".join(printable(line[:_MAX_SHOWN]) for line in lines[:_MAX_VALUES]))


def _explained(mistake: jsonschema.ValidationError) -> Iterator[str]:
    place = ".".join(map(str, mistake.path))
    where = f"{place}: " if place else ""
    value: Any = mistake.instance
    schema: Any = mistake.schema
    if mistake.validator == "additionalProperties":
        known = schema["properties"]
        for name in (one for one in value if one not in known):
            near = nearest(name, known)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
            yield f"{where}there is no argument {name!r}; {hint}"
    elif mistake.validator == "pattern":
        yield f"{where}must have no line breaks and no control characters"
    elif mistake.validator in ("maxLength", "maxItems"):
        unit = "characters" if mistake.validator == "maxLength" else "values"
        yield f"{where}has {len(value):,} {unit}; {mistake.validator_value:,} are allowed"
    else:
        yield f"{where}{mistake.message}"


def _not_text(value: Any, place: str = "arguments") -> Iterator[str]:
    """Yield the places of texts that UTF-8 cannot have, such as half of a surrogate pair."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            yield place
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _not_text(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _not_text(one, place)


def words(arguments: Mapping[str, Any], options: Iterable[str]) -> Iterator[str]:
    """Yield the options that checked arguments mean, in the order of the command's help."""
    for name in options:
        yield from _option(name, arguments.get(name))
        for negated in _option(name, arguments.get(_NOT, {}).get(name)):
            yield from (NOT, negated)


def _option(name: str, value: Any) -> Iterator[str]:
    if value is True:
        yield f"--{name}"
    elif isinstance(value, list):
        yield from (f"--{name}={one}" for one in value)
    elif value is not None and value is not False:
        yield f"--{name}={value}"
