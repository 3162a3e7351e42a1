"""``--not``: an option of a command that turns the condition behind it into one that leaves records out.

click gives a command the values of its options without their order. So ``--not --port 53`` is read as the hidden option
``--not-port 53`` before click reads the options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import click

NOT: Final = "--not"
_PREFIX: Final = "not_"
F = TypeVar("F", bound=Callable[..., Any])


class NegatingCommand(click.Command):
    """A command whose conditions may stand behind ``--not``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options. Raises UsageError if no condition stands behind a ``--not``."""
        return super().parse_args(ctx, list(self._rewritten(ctx, args)))

    def _rewritten(self, ctx: click.Context, args: Iterable[str]) -> Iterator[str]:
        spellings = {
            spelling: option for option in self.params if isinstance(option, Condition) for spelling in option.opts
        }
        is_negated = False
        for word in args:
            if word == NOT:
                if is_negated:
                    raise click.UsageError("--not --not: two of them mean the condition itself", ctx)
                is_negated = True
            elif is_negated:
                yield _negated(word, spellings, ctx)
                is_negated = False
            else:
                yield word
        if is_negated:
            raise click.UsageError(_hint("at the end"), ctx)


class Condition(click.Option):
    """An option that is a condition: its values choose records, or behind ``--not`` leave them out."""


def condition(*names: str, **settings: Any) -> Callable[[F], F]:
    """Return the decorator of an option that may be given more than once, and behind ``--not``.

    The command gets what stands behind ``--not`` under the option's name with ``not_`` before it."""

    def decorate(function: F) -> F:
        long = next(name for name in names if name.startswith("--"))
        # Of the environment, only the condition itself is read.
        hidden = {key: value for key, value in settings.items() if key not in {"help", "envvar"}}
        option = click.option(_long_form(long), f"{_PREFIX}{names[-1]}", multiple=True, hidden=True, **hidden)
        return click.option(*names, multiple=True, cls=Condition, **settings)(option(function))

    return decorate


def split(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of conditions, and those behind ``--not``, both under the options' names."""
    negated = {name.removeprefix(_PREFIX): value for name, value in fields.items() if name.startswith(_PREFIX)}
    return {name: value for name, value in fields.items() if not name.startswith(_PREFIX)}, negated


def _long_form(long: str) -> str:
    return f"{NOT}-{long.removeprefix('--')}"


def _negated(word: str, spellings: dict[str, Condition], ctx: click.Context) -> str:
    """Return the hidden option that a word means behind ``--not``, with the value that may hang on it."""
    name, equals, value = word.partition("=")
    if re.match(r"-[^-].+", word):
        name, equals, value = word[:2], "=", word[2:]
    option = spellings.get(name)
    if option is None:
        raise click.UsageError(_hint(f"before {word}"), ctx)
    long = next(spelling for spelling in option.opts if spelling.startswith("--"))
    return f"{_long_form(long)}{equals}{value}"


def _hint(where: str) -> str:
    return f"--not {where} has no condition behind it: write it before the one that it turns, as in --not --port 53"
