"""The name of an object of the Kubernetes API."""

from __future__ import annotations

from typing import NamedTuple


class Name(NamedTuple):
    """The name of an object within its kind. ``namespace`` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name
