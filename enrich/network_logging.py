"""GKE's object NetworkLogging, which says which verdicts are logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from enrich.name import Name

NETWORK_LOGGING_API_VERSION: Final = "networking.gke.io/v1alpha1"
ONLY_NAME: Final = "default"
"""The name of the one object that counts."""


class LogClass(NamedTuple):
    """Whether the verdicts of a class, allowed or denied, are logged."""

    log: bool = False
    delegate: bool = False
    """Only those that an annotation asks for: of a policy behind an allowed connection, or of the namespace of the pod
    whose policy denied."""


class LoggingSpec(NamedTuple):
    """Which verdicts are logged. Audited connections are in the class of denied ones."""

    allow: LogClass = LogClass()
    deny: LogClass = LogClass()


@dataclass(frozen=True, slots=True)
class NetworkLogging:
    """A networking.gke.io/v1alpha1 NetworkLogging."""

    name: str
    uid: str
    spec: LoggingSpec | None = None
    invalid: str = ""
    """What is wrong with the object, which then has no ``spec``."""

    @property
    def key(self) -> Name:
        return Name("", self.name)
