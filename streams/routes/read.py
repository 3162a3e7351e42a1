"""The routes file, read: YAML to checked values, every mistake with file, line and field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import yaml

from streams.routes.check import Problem, Steps, check
from streams.routes.model import Routes

_AT: Final = re.compile(r"(?P<text>.*) - at `\$(?P<path>.*)`", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_FIELD: Final = re.compile(r"unknown field `([^`]+)`")


class RoutesError(ValueError):
    """The file is wrong; ``problems`` has a line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read(content: bytes, name: str, reserved: Iterable[str] = ()) -> Routes:
    """The routes in a file's content. ``name`` is the file's, ``reserved`` the topics that no route may write.

    Raises :class:`RoutesError`. A mistake of shape is told alone; those of meaning are told all at once.
    """
    loader = yaml.CSafeLoader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            raise RoutesError([f"{name}:1: is empty"])
        lines: dict[Steps, int] = {}
        twice = list(_mark(node, (), lines, set()))
        if twice:
            raise RoutesError([f"{name}:{line}: {_path(steps)}: is there twice" for line, steps in twice])
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RoutesError([f"{name}:{mark.line + 1 if mark else 1}: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, RoutesError):
            raise
        raise RoutesError([f"{name}:1: {' '.join(str(error).split())}"]) from error
    finally:
        loader.dispose()
    try:
        routes = msgspec.convert(data, Routes)
    except msgspec.ValidationError as error:
        raise RoutesError([_told(name, lines, _shape(error))]) from error
    problems = check(routes, frozenset(reserved))
    if problems:
        raise RoutesError([_told(name, lines, problem) for problem in problems])
    return routes


def _mark(node: yaml.Node, steps: Steps, lines: dict[Steps, int], seen: set[int]) -> Iterator[tuple[int, Steps]]:
    """Note on which line each field stands; those that stand there twice. What an alias repeats is noted once."""
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


def _shape(error: msgspec.ValidationError) -> Problem:
    """What msgspec found, taken apart."""
    found = _AT.fullmatch(str(error))
    text, path = (found["text"], found["path"]) if found else (str(error), "")
    steps: Steps = tuple(name or (int(number) if number != "..." else "...") for name, number in _STEP.findall(path))
    unknown = _FIELD.search(text)
    if unknown:
        return Problem((*steps, unknown[1]), "there is no such field")
    return Problem(steps, text[:1].lower() + text[1:])


def _told(name: str, lines: dict[Steps, int], problem: Problem) -> str:
    at = problem.steps
    while at and at not in lines:
        at = at[:-1]
    where = _path(problem.steps)
    return f"{name}:{lines.get(at, 1)}: {f'{where}: ' if where else ''}{problem.text}"


def _path(steps: Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) or step == "..." else f".{step}" for step in steps).lstrip(".")
