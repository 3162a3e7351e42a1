"""Which labels of a pod stand in a record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from enrich.model import Labels

DEFAULT_LABELS: Final = ("app", "k8s-app", "app.kubernetes.io/*")


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """Which labels of a pod stand in a record: by key, by prefix, or all of them (the empty prefix)."""

    keys: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, chosen: Iterable[str]) -> LabelChoice:
        """Make the choice from keys, prefixes that end in ``*``, or ``*`` alone, as WEIR_LABELS has them."""
        listed = list(chosen)
        return cls(
            frozenset(k for k in listed if not k.endswith("*")), tuple(k[:-1] for k in listed if k.endswith("*"))
        )

    def pick(self, labels: Labels) -> dict[str, str]:
        """Return the chosen labels."""
        return {k: v for k, v in labels.items() if k in self.keys or k.startswith(self.prefixes or ("\0",))}
