"""Reads a YAML file into typed values. Every mistake is reported as ``FILE:LINE: field: what is wrong``.

A file is refused as a whole: unknown fields, duplicate keys and values of a wrong type are mistakes, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import yaml

T = TypeVar("T")
Steps = tuple[str | int, ...]
"""The path of a field from the top of the file: keys of mappings and indexes of lists."""
_ERROR: Final = re.compile(r"(?P<text>.*) - at (?:`(?:key|value)` in )?`\$(?P<path>.*)`", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_FIELD: Final = re.compile(r"unknown field `([^`]+)`")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where the field is, and what is wrong with it."""

    steps: Steps
    text: str


class FileError(ValueError):
    """The file is refused; ``problems`` has one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_checked(content: bytes, name: str, kind: type[T], check: Callable[[T], list[Problem]]) -> T:
    """Return the content of the file ``name`` as a ``kind``, a msgspec type. ``check`` finds what types cannot express.

    Raises :class:`FileError`. A type error is reported alone; all mistakes that ``check`` finds are reported together.
    """
    loader = yaml.CSafeLoader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            raise FileError([f"{name}:1: the file is empty"])
        lines: dict[Steps, int] = {}
        duplicates = list(_mark(node, (), lines, set()))
        if duplicates:
            raise FileError([f"{name}:{line}: {_path(steps)}: is given twice" for line, steps in duplicates])
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise FileError([f"{name}:{mark.line + 1 if mark else 1}: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError([f"{name}:1: {' '.join(str(error).split())}"]) from error
    finally:
        loader.dispose()
    try:
        found = msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise FileError([_format(name, lines, _type_problem(error))]) from error
    problems = check(found)
    if problems:
        raise FileError([_format(name, lines, problem) for problem in problems])
    return found


def _mark(node: yaml.Node, steps: Steps, lines: dict[Steps, int], seen: set[int]) -> Iterator[tuple[int, Steps]]:
    """Fill ``lines`` with the line of each field; yield the duplicates. A node that aliases repeat is visited once."""
    lines.setdefault(steps, node.start_mark.line + 1)
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        here: set[Steps] = set()
        for key, value in node.value:
            below = (*steps, str(key.value))
            lines[below] = key.start_mark.line + 1
            if below in here:
                yield lines[below], below
            here.add(below)
            yield from _mark(value, below, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _mark(value, (*steps, index), lines, seen)


def _type_problem(error: msgspec.ValidationError) -> Problem:
    """Take msgspec's error message apart into field and text."""
    found = _ERROR.fullmatch(str(error))
    text, path = (found["text"], found["path"]) if found else (str(error), "")
    steps: Steps = tuple(name or (int(number) if number != "..." else "...") for name, number in _STEP.findall(path))
    unknown = _FIELD.search(text)
    if unknown:
        return Problem((*steps, unknown[1]), "there is no such field")
    return Problem(steps, text[:1].lower() + text[1:])


def _format(name: str, lines: dict[Steps, int], problem: Problem) -> str:
    at = problem.steps
    while at and at not in lines:
        at = at[:-1]
    where = _path(problem.steps)
    return f"{name}:{lines.get(at, 1)}: {f'{where}: ' if where else ''}{problem.text}"


def _path(steps: Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) or step == "..." else f".{step}" for step in steps).lstrip(".")
