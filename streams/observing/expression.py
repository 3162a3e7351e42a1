"""`--cel`: a condition on records in the Common Expression Language, in which ``flow`` is the record.

The package that evaluates it is an extra, because it brings seven others and takes a second to import: it is imported
when an expression is given.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

_PLACE: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")
_EXAMPLE: Final = 'flow.src.namespace == "shop" && flow.count > 1'
_MAX_LENGTH: Final = 10_000


class ExpressionError(ValueError):
    """An expression is wrong. The message says where."""


class CelExpression:
    """A condition on records. It is true only if its value is the truth value true."""

    def __init__(self, text: str) -> None:
        """Raises :class:`ExpressionError`."""
        self.why = ""
        self._program = _program_of(text)
        # A name that is not `flow` fails for every record alike, so a first try finds it.
        try:
            self._program.execute({"flow": {}})
        except Exception as error:  # the library raises RuntimeError, KeyError and others
            if "Undefined variable or function" in str(error):
                name = str(error).split("'")[1]
                raise ExpressionError(
                    f"--cel: there is no variable or function {name}; the record is `flow`, as in {_EXAMPLE}"
                ) from error

    def holds(self, value: bytes) -> bool | None:
        """Return whether it is true for a record as Kafka has it; None if it cannot be evaluated."""
        try:
            found = self._program.execute({"flow": orjson.loads(value)})
        except Exception as error:  # the library raises RuntimeError, KeyError and others
            self.why = self.why or (f"it has no {error}" if isinstance(error, KeyError) else str(error))
            return None
        if found is True or found is False:
            return bool(found)
        self.why = self.why or f"its value is {found!r}, which is neither true nor false"[:200]
        return None


def _program_of(text: str) -> Any:
    try:
        import cel  # noqa: PLC0415 - an extra, which takes a second
    except ModuleNotFoundError as error:
        raise ExpressionError(
            "--cel needs the package common-expression-language, which the image has: pip install '.[cel]' in a clone, "
            "or 'kubeweir-VERSION-py3-none-any.whl[cel]'"
        ) from error
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"--cel: the expression is longer than {_MAX_LENGTH:,} characters")
    try:
        return cel.compile(text)
    except ValueError as error:
        raise ExpressionError(_with_place(text, str(error))) from error


def _with_place(text: str, said: str) -> str:
    """Return the library's message with the line that it is about, and a mark under the place."""
    found = _PLACE.search(said)
    if found is None:
        return f"--cel: {said}"
    line, column = int(found[1]), int(found[2])
    what = found[3].partition(" expecting ")[0].replace("'<EOF>'", "the end")
    lines = text.splitlines() or [""]
    shown = lines[min(line, len(lines)) - 1]
    where = f"line {line}, column {column}" if len(lines) > 1 else f"column {column}"
    return f"--cel: {what}, at {where}:\n  {shown}\n  {' ' * (column - 1)}^"
