"""Makes the tally that the probe gives of its verdicts (:mod:`enrich.wire.tally`), some seconds apart.

The thread that closes the deny windows reads the kernel's part, because no window may be closed meanwhile. The thread
that makes batches takes the finished tally.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

import msgspec
import structlog

from enrich.runtime.version import version_text
from enrich.wire.batch import Header
from enrich.wire.tally import KernelTally, NodeState, Tally
from probe.agent import Agent
from probe.export.publisher import Publisher
from probe.export.ring import Ring
from probe.kernel.decisions import read_decisions

log = structlog.get_logger("kubeweir.probe")

_MAX_NAMED: Final = 20
"""Pods and annotations that a tally names: it is sent every few seconds."""
_MAX_TEXT: Final = 400


class Tallies:
    """The tallies of the own ring."""

    def __init__(
        self,
        agent: Agent,
        watch_ages: Callable[[], Mapping[str, float]],
        ring: Ring,
        publisher: Publisher,
        every_s: float,
    ) -> None:
        """``watch_ages`` returns the seconds since the API server last sent anything, by kind. ``every_s``: the least
        time between two tallies, in seconds."""
        self._agent, self._watch_ages, self._every_s = agent, watch_ages, every_s
        self._ring, self._publisher = ring, publisher
        self._last: Tally | None = None
        self._due = time.monotonic()
        agent.generation.after_rotation = self._read

    def of(self, ring: str, end: int) -> Tally | None:
        """Return the newest tally of a ring, if it is about no verdict from the number ``end`` on."""
        last = self._last
        return last if last and ring == self._ring.id and last.kernel.ring[1] <= end else None

    def note_appended(self, header: Header) -> None:
        """Note that a batch is in the spool, with what its tally says about epochs."""
        if header.tally:
            self._agent.in_force.forget(header.tally.in_force)

    def _read(self) -> None:
        # While the ring is read late, a new tally would always be about verdicts that no batch has yet.
        is_unread = self._last is not None and self._ring.next_number < self._last.kernel.ring[1]
        if time.monotonic() < self._due or is_unread:
            return
        self._due = time.monotonic() + self._every_s
        maps = self._agent.generation.maps
        kernel = KernelTally(**read_decisions(maps, lambda: self._ring.producer_number)._asdict())
        tally = Tally(
            at=time.time_ns(),
            every=self._every_s,
            kernel=kernel,
            spool=self._publisher.settled.of(self._ring.id),
            state=self._state(),
            in_force=self._agent.in_force.waiting(),
        )
        try:
            msgspec.json.decode(msgspec.json.encode(tally), type=Tally)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            # No reader would take the batch, and its verdicts would be dead letters.
            log.error("a tally of verdicts is left out, because no worker would accept it", error=str(error))
        else:
            self._last = tally

    def _state(self) -> NodeState:
        unenforced = {str(name): why for name, why in self._agent.unenforced.items()}
        return NodeState(
            version=version_text()[:64],
            watch={kind: max(0.0, age) for kind, age in self._watch_ages().items()},
            unenforced=_some(unenforced),
            unenforced_pods=len(unenforced),
            capacity=self._agent.usage(),
            suspicious=_some(self._agent.logging.suspicious),
        )


def _some(texts: Mapping[str, str]) -> dict[str, str]:
    return {name[:_MAX_TEXT]: text[:_MAX_TEXT] for name, text in islice(sorted(texts.items()), _MAX_NAMED)}
