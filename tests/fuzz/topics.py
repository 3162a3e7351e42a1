"""For each topic: true records, and what each reader of it does with a record."""

from __future__ import annotations

from typing import Final

from tests.fuzz.enricher import Checkpoints, Endpoints, Raw
from tests.fuzz.journal import Journal
from tests.fuzz.pairs import Pairs
from tests.fuzz.reader import Reader
from tests.fuzz.readers import Alerts, Dead, Deltas, Flows, State, Status

READERS: Final[dict[str, type[Reader]]] = {
    "verdicts.raw": Raw, "endpoints": Endpoints, "checkpoints": Checkpoints, "flows": Flows, "status": Status,
    "alerts.deltas": Deltas, "alerts.state": State, "alerts": Alerts, "dead": Dead,
    "journal": Journal,
    "pairs": Pairs,
}  # fmt: skip
"""By the topic's name without its prefix."""
