"""The timeline that commands make of a journal."""

from __future__ import annotations

from enrich.history.timeline import Scope
from streams.cli.past import timeline_of
from tests.enrich.history.journals import at, begin, entry, policy


def test_a_journal_that_nobody_writes_any_more_ends_with_its_last_entry() -> None:
    entries = [begin(), entry(policy("db", {"podSelector": {}}), 10)]
    assert timeline_of(entries, at(10 + 399)).unknown(Scope("shop"), at(11), at(12)) == ""
    assert "the journal ends at" in timeline_of(entries, at(10 + 401)).unknown(Scope("shop"), at(11), at(12))
