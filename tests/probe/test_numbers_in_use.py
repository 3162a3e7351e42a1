"""Numbers that the kernel still has get no other meaning when the ledger is lost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from probe.ledger import Ledger
from probe.numbers_in_use import reserve_numbers


def test_what_is_to_be_reported_of_an_earlier_generation_is_reserved(tmp_path: Path) -> None:
    """Its policy maps have rules up to 3. Rule 7 has allowed a connection, which is reported when it ends."""
    earlier = SimpleNamespace(numbers=lambda: {"rule": 3}, references=lambda: {"rule": {2, 7}, "endpoint": {9}})
    own = SimpleNamespace(predecessors=[earlier], references=lambda: {"rule": {4}, "identity": {5}})
    ring = SimpleNamespace(references=lambda: {"identity": {6}, "endpoint": set()})
    ledger = Ledger.open(tmp_path / "ledger")
    reserve_numbers(ledger, own, [ring])  # type: ignore[arg-type, list-item]
    assert {kind: ledger.number_of(kind, "new") for kind in ("rule", "identity", "endpoint")} == {
        "rule": 8, "identity": 7, "endpoint": 10,
    }  # fmt: skip
    ledger.close()
