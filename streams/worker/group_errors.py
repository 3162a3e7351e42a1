"""Lets Faust's client, aiokafka, go on after Kafka has refused it something about its group.

aiokafka stops asking for anything about the group, and waits until its user has taken the error (by a call of
``getmany``). It does not log the error, and has the next fetch raise it. Faust never makes that call, because it takes
records from a layer below, and ends the worker at an error of a fetch or a commit. So a worker without a right on its
group would wait for ever, or end. With :func:`join_again` it keeps asking to join, until Kafka lets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from aiokafka.consumer import consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import CommitFailedError, GroupAuthorizationFailedError, TopicAuthorizationFailedError

_RETRY_S: Final = 2.0


def join_again(on_error: Callable[[str], None]) -> None:
    """Have all of aiokafka's consumers in this process join their group again after an error of it. Each error is given
    to ``on_error`` before, on the thread of Faust's client."""
    consumer.GroupCoordinator = partial(_PatientCoordinator, on_error)


class _PatientCoordinator(GroupCoordinator):  # type: ignore[misc]  # aiokafka's classes have no types
    """A consumer's membership of its group."""

    def __init__(self, on_error: Callable[[str], None], *arguments: Any, **options: Any) -> None:
        self._on_error = on_error
        super().__init__(*arguments, **options)

    async def _push_error_to_user(self, error: Exception) -> None:
        """Join again after a while. A heartbeat that was refused would be the last one otherwise."""
        self._on_error(str(error))
        await asyncio.wait([self._closing], timeout=_RETRY_S)
        self.request_rejoin()

    async def commit_offsets(self, assignment: Any, offsets: Any) -> None:
        """Commit, or raise the error after which Faust takes the offsets as not committed, and goes on."""
        try:
            await super().commit_offsets(assignment, offsets)
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError) as error:
            self._on_error(str(error))
            self.request_rejoin()
            raise CommitFailedError("not committed, and the group has already rebalanced") from error
