"""Who holds which place in the table of connections, and whether the counts agree with that."""

from __future__ import annotations

import os
from collections import Counter as Tally

import numpy as np

from probe.kernel.budgets import NOBODY
from probe.kernel.layout import BUDGET, LENT
from tests.kernel.rig import Rig


def slot_of(rig: Rig, number: int) -> int:
    """Return the slot of an endpoint."""
    value = rig.maps["budgets"].get(number.to_bytes(4, "little"))
    assert value is not None
    return int(value["slot"])


def check_places(rig: Rig, limit: int) -> None:
    """Check that each connection holds a place, and that each account has borrowed as many places as is counted.

    ``limit`` is how many an account may have; each processor may exceed it by one.
    """
    keys, connections = rig.maps["connections"].entries()
    numbers, places = rig.maps["places"].entries()
    holders = dict(zip(numbers.tolist(), places, strict=True))
    for key, connection in zip(keys, connections, strict=True):
        assert connection["place"] > 0
        assert int(connection["place"]) - 1 in holders
        assert holders[int(connection["place"]) - 1]["key"].tobytes() == key.tobytes()
    reserve = rig.sizes["CONNECTIONS"] // 2 // rig.sizes["ENDPOINTS"] // 2
    found: Tally[tuple[int, int]] = Tally()
    present = rig.installer.budgets.used()
    for number, place in holders.items():
        payer, account = int(place["payer"]), int(place["account"])
        # Places of pods that are gone are free, and taken when their turn comes.
        if payer in present and number // reserve != slot_of(rig, payer) * 2 + account:
            found[payer, account] += 1
    for key, raw in rig.maps["budgets"].items().items():
        number = int.from_bytes(key, "little")
        if number not in (NOBODY, LENT):
            for account in range(2):
                counted = int(np.frombuffer(raw, BUDGET)[0]["account"][account]["borrowed"])
                assert counted == found[number, account] <= limit + (os.cpu_count() or 1)
