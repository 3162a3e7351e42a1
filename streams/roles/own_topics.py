"""Creates the topics of a role, and waits for the right to do so while it is missing."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import structlog

from enrich.wire.topics import Topic
from streams.kafka.topics import NoRightError, prepare_topics
from streams.settings import Settings

log = structlog.get_logger("kubeweir.streams")

_FIRST_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 5.0


class OwnTopics:
    """The topics that a role cannot begin without."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings, self._stop = settings, stop
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Return which right is missing, or None."""
        return self._problem

    def prepare(self, topics: Iterable[Topic]) -> bool:
        """Create those that are missing and check the others. Waits for Kafka and for rights; returns False if the
        service stops meanwhile. Raises StopServiceError if one cannot be created for another reason."""
        needed, retry_s = list(topics), _FIRST_RETRY_S
        while not self._stop.is_set():
            try:
                done = prepare_topics(self._settings.connection(), needed, self._settings.replication, self._stop)
            except NoRightError as error:
                if str(error) != self._problem:
                    log.error("a right on Kafka is missing; the role waits until it is given", error=str(error))
                self._problem = str(error)
                self._stop.wait(retry_s)
                retry_s = min(2 * retry_s, _MAX_RETRY_S)
            else:
                self._problem = None
                return done
        return False
