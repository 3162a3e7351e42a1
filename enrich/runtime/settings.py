"""Settings from the environment: frozen dataclasses whose fields name their variable.

    @dataclass(frozen=True, slots=True)
    class Settings:
        kafka: str = setting("WEIR_KAFKA", "127.0.0.1:9092")
        \"\"\"Bootstrap servers.\"\"\"

A field's docstring is what ``--help`` says of it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class SettingsError(ValueError):
    """A variable has a value that cannot be; the message names it and says what it takes."""


def setting(variable: str, default: Any, least: float = 0) -> Any:
    """A dataclass field that is read from an environment variable; a number is ``least`` or more."""
    return dataclasses.field(default=default, metadata={"variable": variable, "least": least})


def load(cls: type[T], env: Mapping[str, str]) -> T:
    """An instance from the environment; an empty variable counts as unset. Raises :class:`SettingsError`."""
    hints = get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # every caller passes a dataclass
        variable = field.metadata.get("variable")
        text = env.get(variable, "") if variable else ""
        if text:
            values[field.name] = _read(str(variable), text, hints[field.name], field.metadata["least"])
    return cls(**values)


def _read(variable: str, text: str, kind: Any, least: float) -> Any:
    try:
        if get_origin(kind) is Literal:
            return {choice: choice for choice in get_args(kind)}[text]
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if kind is int:
            return _not_under(least, int(text))
        if kind is float:
            return _not_under(least, float(text))
        if kind == tuple[str, ...]:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return Path(text) if kind in (Path, Path | None) else text
    except (ValueError, KeyError):
        if get_origin(kind) is Literal:
            raise SettingsError(f"{variable}={text!r}: must be {', '.join(get_args(kind))}") from None
        wanted = {bool: "true or false", int: f"a whole number from {least}", float: f"a number from {least}"}[kind]
        raise SettingsError(f"{variable}={text!r}: must be {wanted}") from None


def _not_under(least: float, number: Any) -> Any:
    if not least <= number < float("inf"):
        raise ValueError
    return number


def describe(cls: type) -> str:
    """A table of the variables, for ``--help``."""
    docs = _docstrings(cls)
    lines = []
    for field in dataclasses.fields(cls):
        variable = field.metadata.get("variable")
        if variable is None:
            continue
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if default in (None, "") else f" [{default}]"
        lines.append(f"  {variable}{shown}")
        lines += textwrap.wrap(docs.get(field.name, ""), 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _docstrings(cls: type) -> dict[str, str]:
    """The string that stands below each field (dataclasses keep none)."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)  # noqa: S101 - what getsource of a class gives
        for before, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                name, doc = before.target, after.value
                if isinstance(name, ast.Name) and isinstance(doc, ast.Constant):
                    found[name.id] = " ".join(str(doc.value).split())
    return found
