"""The interface of a source: something that fills a cluster's index and keeps it current.

:mod:`enrich.sources.factory` makes the source that a setting names.
"""

from __future__ import annotations

from typing import Protocol


class SourceError(RuntimeError):
    """The source cannot start; the message says what is wrong and what to do."""


class Source(Protocol):
    """Fills a cluster's index and keeps it current, on threads of its own."""

    def start(self) -> None:
        """Start the threads. Raises :class:`SourceError` for a mistake that only a person can correct."""

    def stop(self) -> None:
        """Stop the threads and wait for them."""

    def problem(self) -> str | None:
        """Say what keeps the index from being current; None if nothing does."""

    def state_problem(self) -> str | None:
        """Say why a restart may lose the last state of policies; None if it does not."""

    def age_s(self) -> dict[str, float]:
        """Return the seconds since the origin of each kind last sent anything; empty for a source of files."""

    def refused(self) -> list[str]:
        """Name the objects that exist and cannot be parsed, as ``kind namespace/name``."""

    def kept(self) -> dict[str, str]:
        """Return why policies are in force that the origin does not have or serve any more, by ``kind name``."""

    def synced_until_ns(self) -> int:
        """Return the moment of the wall clock before which every published change is in the index."""
