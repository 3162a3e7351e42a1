"""Compares what a role says of its health with whether it does its work."""

from __future__ import annotations

from dataclasses import dataclass, field

_OUTPUT_FOLLOWS_S = 10.0


@dataclass
class HealthTruth:
    """The history of one role. Its input and output are counted by somebody else than the role.

    The truth is ``stuck`` since the first input after its last output, ``works`` while output follows output, and
    unknown while there is neither. Health and truth may differ for ``allowed_s``; every second beyond is false health.
    """

    allowed_s: float
    false_s: float = 0.0
    """Seconds of false health."""
    examples: list[str] = field(default_factory=list)
    """What was false, in words."""
    _input: int = 0
    _output: int = 0
    _at: float | None = None
    _stuck_since: float | None = None
    _progress_at: float | None = None
    _unready_since: float | None = None
    """Since when the role has said that it does not work, while it worked."""
    _ready_since: float | None = None
    """Since when the role has said that it works, while it was stuck."""

    def look(self, now: float, *, ready: bool, given: int, done: int, name: str = "") -> None:
        """Note what the role says, and how much it was given and has done so far."""
        progressed, has_input = done != self._output, given != self._input
        if progressed:
            self._stuck_since, self._progress_at = None, now
        elif has_input and self._stuck_since is None:
            self._stuck_since = now
        self._input, self._output = given, done
        stuck = self._stuck_since is not None
        passed = 0.0 if self._at is None else now - self._at
        self._at = now
        self._ready_since = (self._ready_since or now) if ready and stuck else None
        works = self._progress_at is not None and now - self._progress_at < _OUTPUT_FOLLOWS_S
        self._unready_since = (self._unready_since or now) if works and not ready else None
        for since, what in ((self._ready_since, "stuck and ready"), (self._unready_since, "working and not ready")):
            if since is not None and now - since > self.allowed_s:
                self.false_s += min(passed, now - since - self.allowed_s)
                if not self.examples or not self.examples[-1].startswith(f"{name} {what}"):
                    self.examples.append(f"{name} {what} for more than {self.allowed_s:.0f} s")
