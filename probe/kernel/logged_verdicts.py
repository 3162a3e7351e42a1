"""Writes which verdicts are logged: the word ``CONFIG_LOGGING`` and two maps, as ``bpf/logging.h`` explains them.

Lists are complete before the word that makes the kernel read them, and entries are removed after it. So no moment logs
less than both the old and the new state. If a list has no room for both, all of its class is logged meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from probe.kernel.layout import Config
from probe.kernel.maps import Maps
from probe.kernel.room import DoesNotFitError, InstallError
from probe.kernel.tables import EntryTable

_LISTED: Final = b"\x01"


class LoggedVerdicts:
    """The only writer of the two maps and the word. One thread uses it."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._rules = EntryTable(maps["logged_rules"])
        self._subjects = EntryTable(maps["logged_subjects"])
        self._max_rules = maps["logged_rules"].max_entries
        self._max_subjects = maps["logged_subjects"].max_entries

    @property
    def word(self) -> int:
        """The word in force."""
        return self._maps.config(Config.LOGGING)

    def write(self, word: int, rules: Mapping[int, int], subjects: Collection[int], all_logged: int) -> None:
        """Put a state in force: the word, the rules that are logged with the rule that each is logged as, and the
        endpoints whose denials are logged. ``all_logged`` is the word that reads no list. It is in force while a list
        is emptied of the old state first, because both do not fit; and it stays in force if this raises InstallError or
        OSError.
        """
        named = {_bytes(rule): _bytes(logged) for rule, logged in rules.items()}
        listed = dict.fromkeys(map(_bytes, subjects), _LISTED)
        try:
            if not self._have_room(named, listed):
                self.write_word(all_logged)
                self._drop_others(named, listed)
            self._rules.put(self._rules.changed(named))
            self._subjects.put(self._subjects.changed(listed))
        except (InstallError, OSError) as error:
            self.write_word(all_logged)
            self._drop_others(named, listed)
            if isinstance(error, DoesNotFitError):
                raise InstallError(f"the kernel has no memory for another entry of {error.table}") from error
            raise
        self.write_word(word)
        self._drop_others(named, listed)

    def _have_room(self, named: Mapping[bytes, bytes], listed: Mapping[bytes, bytes]) -> bool:
        """Return whether both maps hold the old and the new entries together. Raises InstallError if the
        new ones alone do not fit."""
        if len(named) > self._max_rules:
            raise InstallError(f"{len(named)} lists of policies ask for it, and {self._max_rules} fit")
        if len(listed) > self._max_subjects:
            raise InstallError(f"pods with {len(listed)} interfaces ask for it, and {self._max_subjects} fit")
        return (
            len(self._rules.values.keys() | named) <= self._max_rules
            and len(self._subjects.values.keys() | listed) <= self._max_subjects
        )

    def _drop_others(self, named: Mapping[bytes, bytes], listed: Mapping[bytes, bytes]) -> None:
        self._rules.drop(dict.fromkeys(self._rules.values.keys() - named))
        self._subjects.drop(dict.fromkeys(self._subjects.values.keys() - listed))

    def write_word(self, word: int) -> None:
        """Write the word only."""
        if word != self.word:
            self._maps.configure(Config.LOGGING, word)

    def rules(self) -> set[int]:
        """Return the numbers of the rules as which others are logged."""
        return {int.from_bytes(value, "little") for value in self._rules.values.values()}


def _bytes(number: int) -> bytes:
    return number.to_bytes(4, "little")
