"""Compares the content of a file with the types that describe it, and finds every mistake, in words.

msgspec stops at the first mistake, and names types and regular expressions. This module walks the same types
(:mod:`msgspec.inspect`) through the whole file. It also repairs the content: each wrong value is replaced by one that
the type takes, so that the checks of meaning can run and report their own mistakes at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import inspect

from enrich.parse.spelling import nearest, no_such_field
from enrich.runtime.yaml_lines import Steps
from streams.config.fields import PATTERNS, Pattern

Shape = inspect.Type


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where the field is, and what is wrong with it."""

    steps: Steps
    text: str


class NoStandInError(Exception):
    """There is no value that a type surely takes."""


@dataclass(slots=True)
class TypeCheck:
    """One comparison of a file with its types."""

    problems: list[Problem] = field(default_factory=list)
    _replaced: set[Steps] = field(default_factory=set)
    """Where a value was replaced, so that a mistake found there is not the user's."""
    _renamed: dict[Steps, str] = field(default_factory=dict)
    """Fields that were read from a mistyped name, with that name."""
    _stand_ins: int = 0

    def repair(self, shape: Shape, value: Any, at: Steps = ()) -> Any:
        """Return a value that the type takes, and note what was wrong with this one. Raises NoStandInError."""
        if isinstance(shape, inspect.Metadata):
            return self.repair(shape.type, value, at)
        if isinstance(shape, inspect.UnionType):
            return self._union(shape, value, at)
        if not _is_kind(shape, value):
            # YAML takes unquoted numbers, dates, yes and no for something else than text.
            quoted = isinstance(shape, inspect.StrType) and not isinstance(value, (Mapping, list)) and value is not None
            hint = "; put it in quotes" if quoted else ""
            return self._wrong(shape, at, f"must be {_in_words(shape)}, is {_shown(value)}{hint}")
        if isinstance(shape, inspect.StructType):
            return self._struct(shape, value, at)
        if isinstance(shape, inspect.DictType):
            return self._mapping(shape, value, at)
        if isinstance(shape, inspect.ListType):
            found = [self.repair(shape.item_type, one, (*at, index)) for index, one in enumerate(value)]
            mistake = _length(shape, value, "entries")
            return found if mistake is None else self._wrong(shape, at, mistake)
        mistake = _value_mistake(shape, value)
        return value if mistake is None else self._wrong(shape, at, mistake)

    def explains(self, steps: Steps) -> bool:
        """Return whether a mistake at ``steps`` may come from a replaced value."""
        return any(steps[: len(one)] == one for one in self._replaced)

    def as_written(self, steps: Steps) -> Steps:
        """Return a path with the names that the file has."""
        for length in range(len(steps), 0, -1):
            name = self._renamed.get(steps[:length])
            if name is not None:
                steps = (*steps[: length - 1], name, *steps[length:])
        return steps

    def _note(self, at: Steps, text: str) -> None:
        self.problems.append(Problem(self.as_written(at), text))

    def _wrong(self, shape: Shape, at: Steps, text: str) -> Any:
        self._note(at, text)
        self._replaced.add(at)
        return self._stand_in(shape)

    def _union(self, shape: inspect.UnionType, value: Any, at: Steps) -> Any:
        members = [one for one in shape.types if not isinstance(one, inspect.NoneType)]
        if value is None and len(members) < len(shape.types):
            return None
        for member in members:
            if _is_kind(member, value):
                return self.repair(member, value, at)
        expected = " or ".join(dict.fromkeys(map(_in_words, members)))
        return self._wrong(members[0], at, f"must be {expected}, is {_shown(value)}")

    def _struct(self, shape: inspect.StructType, value: Mapping[Any, Any], at: Steps) -> dict[str, Any]:
        fields = {one.encode_name: one for one in shape.fields}
        given = {key: one for key, one in value.items() if key in fields}
        for key in value:
            if key in fields:
                continue
            absent = [name for name in fields if name not in given]
            near = nearest(str(key), absent)
            self._note((*at, str(key)), no_such_field(str(key), absent if near else fields))
            if near is not None:
                given[near] = value[key]
                self._renamed[*at, near] = str(key)
        for name, one in fields.items():
            if one.required and name not in given:
                self._note((*at, name), "is required")
                self._replaced.add((*at, name))
                given[name] = self._stand_in(one.type)
            elif name in given:
                given[name] = self.repair(one.type, given[name], (*at, name))
        return given

    def _mapping(self, shape: inspect.DictType, value: Mapping[Any, Any], at: Steps) -> dict[str, Any]:
        found = {}
        for key, one in value.items():
            before = len(self.problems)
            self.repair(shape.key_type, key, (*at, str(key)))
            repaired = self.repair(shape.value_type, one, (*at, str(key)))
            if len(self.problems) == before:
                found[key] = repaired
        return found

    def _stand_in(self, shape: Shape) -> Any:
        """Return a value that the type takes, and that is like no other text."""
        self._stand_ins += 1
        match shape:
            case inspect.Metadata():
                return self._stand_in(shape.type)
            case inspect.UnionType():
                return self._stand_in(next(one for one in shape.types if not isinstance(one, inspect.NoneType)))
            case inspect.StructType():
                return {one.encode_name: self._stand_in(one.type) for one in shape.fields if one.required}
            case inspect.ListType():
                return [self._stand_in(shape.item_type) for _ in range(shape.min_length or 0)]
            case inspect.DictType():
                return {}
            case inspect.LiteralType():
                return shape.values[0]
            case inspect.StrType() if shape.pattern is None:
                return f"x{self._stand_ins}"
            case inspect.StrType(pattern=str(pattern)) if pattern in PATTERNS:
                return PATTERNS[pattern].example.format(self._stand_ins)
            case inspect.IntType() | inspect.FloatType():
                return next(one for one in (shape.ge, shape.le, 1) if one is not None)
            case inspect.BoolType():
                return False
        raise NoStandInError


_WORDS: Final[tuple[tuple[type[Shape], type | tuple[type, ...], str], ...]] = (
    (inspect.StructType, Mapping, "a mapping of fields"),
    (inspect.DictType, Mapping, "a mapping of names to values"),
    (inspect.ListType, list, "a list"),
    (inspect.BoolType, bool, "true or false"),
    (inspect.IntType, int, "a whole number"),
    (inspect.FloatType, (int, float), "a number"),
    (inspect.StrType, str, "text"),
)


def _is_kind(shape: Shape, value: Any) -> bool:
    """Return whether a value is of the kind that the type takes: text, number, list, mapping."""
    if isinstance(shape, inspect.LiteralType):
        return not isinstance(value, (Mapping, list, type(None)))
    for kind, types, _ in _WORDS:
        if isinstance(shape, kind):
            return isinstance(value, types) and (types is bool or not isinstance(value, bool))
    return True


def _in_words(shape: Shape) -> str:
    if isinstance(shape, inspect.LiteralType):
        return "one of " + ", ".join(map(str, shape.values)) if len(shape.values) > 1 else str(shape.values[0])
    return next((words for kind, _, words in _WORDS if isinstance(shape, kind)), "something else")


def _shown(value: Any) -> str:
    """Return a value as the user knows it."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str) and "://" in value:
        return "an address"  # it may have a password
    return "empty" if value is None else repr(value) if isinstance(value, (str, int, float)) else str(value)


def _value_mistake(shape: Shape, value: Any) -> str | None:
    """Return what is wrong with a value of the right kind; None if nothing is."""
    if isinstance(shape, inspect.LiteralType):
        # True is 1 in Python, and is not in a file.
        if any(value == one and type(value) is type(one) for one in shape.values):
            return None
        near = nearest(value, map(str, shape.values)) if isinstance(value, str) and len(shape.values) > 1 else None
        return f"must be {_in_words(shape)}; is {value!r}{f', did you mean {near}?' if near else ''}"
    if isinstance(shape, inspect.IntType | inspect.FloatType):
        return _bounds_mistake(shape, value)
    if isinstance(shape, inspect.StrType):
        if shape.pattern is not None:
            expected = PATTERNS.get(shape.pattern) or Pattern(shape.pattern, f"text of the form {shape.pattern}", "")
            if not expected.matches(value):
                return expected.mistake(value)
        return _length(shape, value, "characters")
    return None


def _bounds_mistake(shape: inspect.IntType | inspect.FloatType, value: float) -> str | None:
    above = shape.ge is None or value >= shape.ge
    above = above and (shape.gt is None or value > shape.gt)
    below = shape.le is None or value <= shape.le
    below = below and (shape.lt is None or value < shape.lt)
    if above and below:
        return None
    bounds = (
        ("at least", shape.ge), ("more than", shape.gt), ("at most", shape.le), ("less than", shape.lt),
    )  # fmt: skip
    return f"must be {' and '.join(f'{words} {bound}' for words, bound in bounds if bound is not None)}; is {value!r}"


def _length(shape: inspect.ListType | inspect.StrType, value: Any, unit: str) -> str | None:
    if shape.min_length is not None and len(value) < shape.min_length:
        return f"must have at least {shape.min_length} {unit}, has {len(value)}"
    if shape.max_length is not None and len(value) > shape.max_length:
        return f"must have at most {shape.max_length} {unit}, has {len(value)}"
    return None
