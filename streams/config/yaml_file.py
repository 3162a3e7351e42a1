"""Reads a YAML file into typed values. Every mistake is reported as ``FILE:LINE: field: what is wrong``.

A file is refused as a whole: unknown fields, duplicate keys and values of a wrong type are mistakes, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import yaml

from enrich.runtime.yaml_lines import Steps, field_lines, line_of, path_text
from streams.config.type_check import NoStandInError, Problem, TypeCheck

__all__ = ["FileError", "Problem", "Steps", "read_checked"]

T = TypeVar("T")


class FileError(ValueError):
    """The file is refused; ``problems`` has one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_checked(content: bytes, name: str, kind: type[T], check: Callable[[T], list[Problem]]) -> T:
    """Return the content of the file ``name`` as a ``kind``, a msgspec type. ``check`` finds what types cannot express.

    Raises :class:`FileError` with every mistake, by line."""
    loader = yaml.CSafeLoader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            raise FileError([f"{name}:1: the file is empty"])
        lines, duplicates = field_lines(node)
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise FileError([f"{name}:{mark.line + 1 if mark else 1}: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError([f"{name}:1: {' '.join(str(error).split())}"]) from error
    finally:
        loader.dispose()
    twice = [(line, Problem(steps, "is given twice")) for line, steps in duplicates]
    found: list[T] = []
    mistakes = _read_typed(data, kind, check, found)
    problems = sorted([*twice, *((line_of(lines, one.steps), one) for one in mistakes)], key=lambda pair: pair[0])
    if problems:
        raise FileError([_format(name, line, problem) for line, problem in problems])
    return found[0]


def _read_typed(data: object, kind: type[T], check: Callable[[T], list[Problem]], found: list[T]) -> list[Problem]:
    """Add the value to ``found``, and return every mistake: those of types, and those that ``check`` finds in the
    rest."""
    types = TypeCheck()
    try:
        value = msgspec.convert(types.repair(msgspec.inspect.type_info(kind), data), kind)
    except (msgspec.ValidationError, NoStandInError) as error:
        # The walk knows every type that the files have; should it not, msgspec's words are better than none.
        return types.problems or [Problem((), str(error))]
    found.append(value)
    meanings = [one for one in check(value) if not types.explains(one.steps)]
    return [*types.problems, *(Problem(types.as_written(one.steps), one.text) for one in meanings)]


def _format(name: str, line: int, problem: Problem) -> str:
    where = path_text(problem.steps)
    return f"{name}:{line}: {f'{where}: ' if where else ''}{problem.text}"
