"""Gives each local pod its share of the tables that all pods share. ``bpf/budgets.h`` explains what a share is.

A share is known by its slot, a number from 0 to the size of ``endpoints``. A pod gets the lowest slot that is free
before it is under policy, and keeps it until it is gone. The reserves of the slots above the highest one in use are
lent meanwhile: the word ``LENT_FROM`` says where they begin. What a successor finds in its reserve, it takes back as it
needs it. The places of fragments are few and short-lived, so they are not lent but divided among the slots up to the
highest one in use: ``POD_FRAGMENTS`` is the part of one account. It is a power of two, so that it changes rarely.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from probe.kernel.layout import BUDGET, COUNTED_DENIED_FLOWS, LENT, NO_SLOT, Config
from probe.kernel.maps import Maps

_ACCOUNTS: Final = 2
NOBODY: Final = 0
"""Key of the budget of packets without a pod."""


@dataclass(frozen=True, slots=True)
class Used:
    """What the accounts of one pod use now."""

    borrowed: int
    """Connections beyond its reserve."""
    evicted: int
    """Connections that were evicted before they expired, since the pod is under policy."""


class Budgets:
    """The only writer of ``budgets`` in user space. One thread writes; any may call :meth:`usage` and :meth:`used`."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._limit = maps["endpoints"].max_entries
        self._reserve = maps["places"].max_entries // 2 // self._limit // _ACCOUNTS
        """Places of an account of a slot."""
        self._slots: dict[int, int] = {}
        """Slot by endpoint number, NO_SLOT if there was none left."""
        self._highest: int | None = None
        """The highest number that was given a budget; None: any may have had one, from an earlier probe."""
        for key, value in maps["budgets"].items().items():
            number = int.from_bytes(key, "little")
            if number not in (NOBODY, LENT):
                self._slots[number] = int(np.frombuffer(value, BUDGET)[0]["slot"])
        self._is_prepared = False
        """Whether there are budgets that are no pod's. Nothing is written before policy is installed."""

    def assign(self, numbers: Iterable[int]) -> None:
        """Give these endpoints a budget, and a slot while there are some."""
        if not self._is_prepared:
            self._prepare()
        needy = [number for number in numbers if self._slots.get(number, NO_SLOT) == NO_SLOT]
        if not needy:
            return
        taken = set(self._slots.values())
        free = (slot for slot in range(self._limit) if slot not in taken)
        given = {number: next(free, NO_SLOT) for number in needy}
        given = {number: slot for number, slot in given.items() if self._slots.get(number) != slot}
        borrowed = self._borrowed_already(given)
        for number, slot in given.items():
            self._slots[number] = slot
            self._write(number, slot, borrowed.get(number))
        self._highest = max(self._highest or 0, *needy)
        self._lend()

    def retain(self, numbers: Iterable[int]) -> None:
        """Forget the budgets of all other endpoints. No program may refer to them any longer."""
        gone = self._slots.keys() - set(numbers)
        for number in gone:
            self._maps["budgets"].drop(_key(number))
            del self._slots[number]
        if gone:
            self._lend()

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return what is lent, and what can be: connections now, and denied flows in this window."""
        lent = self._maps["places"].max_entries - self._maps.config(Config.LENT_FROM)
        pool = self._maps["budgets"].get(_key(LENT))
        taken = pool["taken"][COUNTED_DENIED_FLOWS] if pool is not None else None
        period = self._maps.config(Config.DENY_WINDOW) & 0xFFFFFFFF
        windows = int(taken["by_account"][0]) if taken is not None and int(taken["period"]) == period else 0
        return {
            "connections": (sum(used.borrowed for used in self.used().values()), lent),
            "denied_flows": (windows, self._maps["deny_windows_0"].max_entries // 2),
        }

    def used(self) -> dict[int, Used]:
        """Return what each endpoint uses, by its number."""
        return used_by_endpoint(self._maps)

    def _prepare(self) -> None:
        for number in (NOBODY, LENT):
            if self._maps["budgets"].get(_key(number)) is None:
                self._write(number, NO_SLOT)
        self._lend()
        self._is_prepared = True

    def _borrowed_already(self, given: Mapping[int, int]) -> dict[int, list[int]]:
        """Count the lent places that endpoints have which had a budget before, by account; ``given`` has their slots.

        A pod that gets a new sandbox has the number that it had. Its old places are still charged to that number, and
        each will be subtracted when it is emptied: from zero, the count would wrap around, and lend it nothing more."""
        returning = [number for number in given if self._highest is None or number <= self._highest]
        if not returning:
            return {}
        places, values = self._maps["places"].entries()
        found = {}
        for number in returning:
            mine = values["payer"] == number
            of, accounts = places[mine] // max(self._reserve, 1), values["account"][mine].astype(np.int64)
            is_lent = of != given[number] * _ACCOUNTS + accounts
            found[number] = [int((is_lent & (accounts == account)).sum()) for account in range(_ACCOUNTS)]
        return found

    def _write(self, number: int, slot: int, borrowed: Sequence[int] | None = None) -> None:
        raw = self._maps["budgets"].get(_key(number))
        value = np.zeros(1, BUDGET) if raw is None else np.array([raw])
        value["slot"] = slot
        if borrowed is not None:
            value["account"]["borrowed"] = borrowed
        self._maps["budgets"].set(_key(number), value.tobytes())

    def _lend(self) -> None:
        """Write where the lent places begin: behind the reserve of the highest slot in use. Divide the fragments."""
        slots = 1 + max((slot for slot in self._slots.values() if slot != NO_SLOT), default=-1)
        self._maps.configure(Config.LENT_FROM, slots * _ACCOUNTS * self._reserve)
        # Those without a slot share one part.
        accounts = (slots + 1) * _ACCOUNTS
        self._maps.configure(
            Config.POD_FRAGMENTS, self._maps["fragment_places"].max_entries >> (accounts - 1).bit_length()
        )


def used_by_endpoint(maps: Maps) -> dict[int, Used]:
    """Return what each endpoint uses, by its number."""
    found = {}
    for key, raw in maps["budgets"].items().items():
        number = int.from_bytes(key, "little")
        if number not in (NOBODY, LENT):
            value = np.frombuffer(raw, BUDGET)[0]
            # A count may be one below zero for a moment: another CPU adds to it after one has subtracted.
            borrowed = int(value["account"]["borrowed"].astype("<i4").clip(min=0).sum())
            found[number] = Used(borrowed, int(value["evicted"]))
    return found


def spared_by_endpoint(maps: Maps) -> dict[int, int]:
    """Return how many flows were not looked up, by endpoint, because it has used up its look-ups; none has 0.

    Only differences mean something: the count wraps around."""
    numbers, values = maps["budgets"].entries()
    spared = values["spared"]
    return dict(zip(numbers[spared > 0].tolist(), spared[spared > 0].tolist(), strict=True))


def _key(number: int) -> bytes:
    return number.to_bytes(4, "little")
