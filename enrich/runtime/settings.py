"""Settings read from environment variables into frozen dataclasses, one field for each variable.

    @dataclass(frozen=True, slots=True)
    class Settings:
        kafka: str = setting("WEIR_KAFKA", "127.0.0.1:9092")
        \"\"\"Bootstrap servers.\"\"\"

    settings = load(Settings, os.environ)

The docstring below a field is its description in ``--help`` and in the reference of settings. A variable that was
renamed is refused under its old name, because a value that is silently ignored is worse than a service that does not
start. Values are never taken from files or from the command line.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

PRESET: Final = "WEIR_PRESET"
"""The variable that chooses other defaults for several settings at once."""
_BOOLEANS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class SettingsError(ValueError):
    """A variable cannot be used; the message names it, and says what it takes or what it is called now."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Metadata:
    """What :func:`setting` keeps about a field beside its default."""

    variable: str
    least: float
    most: float
    formerly: tuple[str, ...]
    default_text: str | None
    presets: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Described:
    """One setting, described for people: a line of ``--help``, a row of the reference."""

    variable: str
    kind: str
    """What it takes, in words: "text", "whole number", "comma-separated list", "none, namespace or workload"."""
    default: str
    """Empty: unset, or no text."""
    least: float | None
    """The smallest number that is accepted; None for settings that are not numbers."""
    formerly: tuple[str, ...]
    """Names under which it is refused."""
    description: str
    """The field's docstring on one line."""
    most: float | None = None
    """The largest number that is accepted; None if there is none."""


def setting(
    variable: str,
    default: Any,
    least: float = 0,
    *,
    most: float = math.inf,
    formerly: tuple[str, ...] = (),
    default_text: str | None = None,
    presets: Mapping[str, str] | None = None,
) -> Any:
    """Declare a dataclass field that is read from the environment variable ``variable``.

    A number below ``least`` or above ``most`` is refused, and so is a variable of one of the names in ``formerly``.
    ``default_text`` describes a default that differs between machines. ``presets`` has, for a value of WEIR_PRESET,
    what the variable is if it is unset.
    """
    metadata = {"setting": _Metadata(variable, least, most, formerly, default_text, presets or {})}
    return dataclasses.field(default=default, metadata=metadata)


def load(cls: type[T], env: Mapping[str, str]) -> T:
    """Read an instance of ``cls`` from the environment; an empty variable counts as unset.

    Raises :class:`SettingsError` for the first value that is not accepted, and for a variable under its old name.
    """
    hints = get_type_hints(cls)
    values = {}
    for field, metadata in _settings(cls):
        for old in metadata.formerly:
            if env.get(old):
                raise SettingsError(f"{old} is now {metadata.variable}: set that, and remove {old}")
        text = env.get(metadata.variable) or metadata.presets.get(env.get(PRESET, ""))
        if text:
            values[field.name] = _read(metadata, text, hints[field.name])
    return cls(**values)


def described(cls: type) -> list[Described]:
    """Describe the settings of ``cls`` in the order of its fields."""
    hints, docs = get_type_hints(cls), _docstrings(cls)
    return [
        Described(
            variable=metadata.variable,
            kind=_kind_in_words(hints[field.name]),
            default=_default_in_words(field.default) if metadata.default_text is None else metadata.default_text,
            least=metadata.least if hints[field.name] in (int, int | None, float) else None,
            most=metadata.most if metadata.most < math.inf else None,
            formerly=metadata.formerly,
            description=" ".join(
                [docs.get(field.name, ""), *(f"{PRESET}={name}: {text}." for name, text in metadata.presets.items())]
            ),
        )
        for field, metadata in _settings(cls)
    ]


def describe(cls: type) -> str:
    """Format the settings of ``cls`` as the text that ``--help`` shows."""
    lines = []
    for one in described(cls):
        lines.append(f"  {one.variable} [{one.default}]" if one.default else f"  {one.variable}")
        lines += textwrap.wrap(one.description, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _settings(cls: type) -> list[tuple[dataclasses.Field[Any], _Metadata]]:
    """Return the fields that :func:`setting` made; other fields are not read from the environment."""
    return [(field, field.metadata["setting"]) for field in dataclasses.fields(cls) if "setting" in field.metadata]


def _read(metadata: _Metadata, text: str, kind: Any) -> Any:
    """Convert a variable's text to the type of its field."""
    variable, least, most = metadata.variable, metadata.least, metadata.most
    try:
        if get_origin(kind) is Literal:
            return {choice: choice for choice in get_args(kind)}[text]
        if kind is bool:
            return _BOOLEANS[text.lower()]
        if kind == int | None and text == "auto":
            return None
        if kind in (int, int | None):
            return _between(least, int(text), most)
        if kind is float:
            return _between(least, float(text), most)
        if kind == tuple[str, ...]:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return Path(text) if kind in (Path, Path | None) else text
    except (ValueError, KeyError):
        if get_origin(kind) is Literal:
            raise SettingsError(f"{variable}={text!r}: must be {', '.join(get_args(kind))}") from None
        numbers = f"from {least}" if most == math.inf else f"from {least} to {most}"
        expected = {
            bool: "true or false",
            int: f"a whole number {numbers}",
            int | None: f"auto, or a whole number {numbers}",
            float: f"a number {numbers}",
        }[kind]
        raise SettingsError(f"{variable}={text!r}: must be {expected}") from None


def _between(least: float, number: Any, most: float) -> Any:
    if not least <= number <= most or number == math.inf:
        raise ValueError
    return number


def _kind_in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        *most, last = get_args(kind)
        return f"{', '.join(most)} or {last}" if most else str(last)
    if kind in (Path, Path | None):
        return "path"
    words = {
        bool: "true or false",
        int: "whole number",
        int | None: "auto or whole number",
        float: "number",
        tuple[str, ...]: "comma-separated list",
    }
    return words.get(kind, "text")


def _default_in_words(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _docstrings(cls: type) -> dict[str, str]:
    """Return the string that stands below each field, by field name (dataclasses do not keep it)."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)  # noqa: S101 - the source of a class is a class definition
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                name, doc = statement.target, following.value
                if isinstance(name, ast.Name) and isinstance(doc, ast.Constant):
                    found[name.id] = " ".join(str(doc.value).split())
    return found
