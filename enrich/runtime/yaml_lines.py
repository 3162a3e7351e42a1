"""Where the fields of a YAML document are: the line of each, and the keys that are given twice."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

Steps = tuple[str | int, ...]
"""The path of a field from the top of the document: keys of mappings and indexes of lists."""


def field_lines(node: yaml.Node) -> tuple[dict[Steps, int], list[tuple[int, Steps]]]:
    """Return the line of each field of a document, and line and path of each key that its mapping has already."""
    lines: dict[Steps, int] = {}
    return lines, list(_mark(node, (), lines, set()))


def _mark(node: yaml.Node, steps: Steps, lines: dict[Steps, int], seen: set[int]) -> Iterator[tuple[int, Steps]]:
    """Fill ``lines``; yield the duplicates. A node that aliases repeat is visited once."""
    lines.setdefault(steps, node.start_mark.line + 1)
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        here: set[Steps] = set()
        for key, value in node.value:
            below = (*steps, str(key.value))
            lines[below] = key.start_mark.line + 1
            if below in here and key.value != "<<":
                yield lines[below], below
            here.add(below)
            yield from _mark(value, below, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _mark(value, (*steps, index), lines, seen)


def expanded_size(node: yaml.Node) -> int:
    """Return how many values a document has when each alias is replaced with what it stands for.

    A text of ten lines can stand for billions of values. Raises ValueError if a value contains itself."""
    return _expanded(node, {}, set())


def _expanded(node: yaml.Node, known: dict[int, int], open_nodes: set[int]) -> int:
    size = known.get(id(node))
    if size is not None:
        return size
    if id(node) in open_nodes:
        raise ValueError(f"line {node.start_mark.line + 1}: an alias stands for a value that contains the alias")
    open_nodes.add(id(node))
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_expanded(below, known, open_nodes) for pair in node.value for below in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_expanded(value, known, open_nodes) for value in node.value)
    open_nodes.remove(id(node))
    known[id(node)] = size
    return size


def line_of(lines: dict[Steps, int], steps: Steps) -> int:
    """Return the line of a field; if it is missing, that of the field that should have it."""
    while steps and steps not in lines:
        steps = steps[:-1]
    return lines.get(steps, 1)


def path_text(steps: Steps) -> str:
    """Return a path as people write it: ``spec.ingress[0].from``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def error_text(error: yaml.YAMLError) -> str:
    """Return a syntax error in one line, with line and column."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + ", ".join(part for part in (error.context, error.problem) if part)
