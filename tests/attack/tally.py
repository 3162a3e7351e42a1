"""What an attack counts, and the list of all attacks.

A class of attacks is a function that takes a :class:`~tests.attack.ground.Ground` and yields tallies::

    @attack("a source that is not the sender's")
    def spoofed(ground: Ground) -> Iterator[Tally]:
        ...

It must be able to fail: with the protection taken out, packets get through. It also sends what policy allows, because
a program that drops everything stops every attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.attack.ground import Ground


class Tally(NamedTuple):
    """Counts of one step of an attack, or of several."""

    attempts: int = 0
    got_through: int = 0
    allowed: int = 0
    """How often something was tried that policy allows."""
    lost: int = 0
    """How often that did not arrive."""

    def plus(self, other: Tally) -> Tally:
        return Tally(*(mine + others for mine, others in zip(self, other, strict=True)))


Function = Callable[["Ground"], Iterator[Tally]]


@dataclass(frozen=True)
class Attack:
    """One class of attacks."""

    name: str
    title: str
    """What is tried, in a few words."""
    run: Function


ATTACKS: list[Attack] = []


def attack(title: str) -> Callable[[Function], Function]:
    """Add a function to the list. Its name is what ``--only`` matches."""

    def add(function: Function) -> Function:
        ATTACKS.append(Attack(function.__name__, title, function))
        return function

    return add
