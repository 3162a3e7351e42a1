"""Writes which verdicts are logged: the word ``CONFIG_LOGGING`` and two maps, as ``bpf/logging.h`` explains them.

Lists are complete before the word that makes the kernel read them, and entries are removed after it. So no moment logs
less than both the old and the new state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from probe.kernel.layout import Config
from probe.kernel.maps import Maps
from probe.kernel.tables import EntryTable

_LISTED: Final = b"\x01"


class LoggedVerdicts:
    """The only writer of the two maps and the word. One thread uses it."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._rules = EntryTable(maps["logged_rules"])
        self._subjects = EntryTable(maps["logged_subjects"])
        self.max_rules = maps["logged_rules"].max_entries
        self.max_subjects = maps["logged_subjects"].max_entries

    @property
    def word(self) -> int:
        """The word in force."""
        return self._maps.config(Config.LOGGING)

    def write(self, word: int, rules: Mapping[int, int], subjects: Collection[int]) -> None:
        """Put a state in force: the word, the rules that are logged with the rule that each is logged as, and the
        endpoints whose denials are logged. Raises InstallError or OSError; then all that was logged still is."""
        named = {_bytes(rule): _bytes(logged) for rule, logged in rules.items()}
        listed = dict.fromkeys(map(_bytes, subjects), _LISTED)
        self._rules.put(self._rules.changed(named))
        self._subjects.put(self._subjects.changed(listed))
        self.write_word(word)
        self._rules.drop(dict.fromkeys(self._rules.values.keys() - named))
        self._subjects.drop(dict.fromkeys(self._subjects.values.keys() - listed))

    def write_word(self, word: int) -> None:
        """Write the word only."""
        if word != self.word:
            self._maps.configure(Config.LOGGING, word)

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger that the maps have, by kind."""
        return {"rule": {int.from_bytes(value, "little") for value in self._rules.values.values()}}


def _bytes(number: int) -> bytes:
    return number.to_bytes(4, "little")
