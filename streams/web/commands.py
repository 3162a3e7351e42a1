"""Runs commands of `weir` for views: each in a process of its own, with bounds of its time, output and memory."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson
import structlog

from streams.cli.runs import Bounds, TooMuchPrintedError, run_whole
from streams.web.answers import RefusedError

log = structlog.get_logger("kubeweir.streams")

_WRONG: Final = 2
_CANNOT_SAY: Final = "cannot say: "
"""What a command says before the reason why what is kept does not answer."""
_FRAME: Final = re.compile(' +File ".*", line [0-9]+')
"""A line of a traceback."""


class CannotSayError(Exception):
    """A command cannot say, because of what is kept and not of how it was asked; the message says why."""


async def answer_of(words: Sequence[str], bounds: Bounds, stdin: bytes = b"", field: str = "") -> Any:
    """Return what a command prints as JSON. ``field`` is what the person wrote that the command may find wrong.

    Raises RefusedError, and CannotSayError if what is kept does not answer. Where another question is needed, the field
    of the error is not empty: the same one would cost as much again."""
    name = f"weir {words[0]}"
    try:
        ended, text = await run_whole(words, os.environ, stdin, bounds)
    except TooMuchPrintedError:
        raise RefusedError(
            503, f"{name} says more than {bounds.max_printed >> 20} MiB: run it in a terminal.", "since"
        ) from None
    if ended.is_too_large:
        raise RefusedError(
            503,
            f"{name} takes more than {bounds.max_memory >> 20} MiB of memory: choose a shorter time or a namespace.",
            "since",
        )
    if ended.is_late:
        raise RefusedError(503, f"{name} takes longer than {bounds.seconds:.0f} s: choose a shorter time.", "since")
    try:
        # An exit code other than 0 is an answer, too: something would be denied.
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    if ended.code == _WRONG:
        raise RefusedError(400, "\n".join(ended.lines), field)
    if ended.lines and ended.lines[-1].startswith(_CANNOT_SAY):
        raise CannotSayError(ended.lines[-1].removeprefix(_CANNOT_SAY))
    if any(map(_FRAME.match, ended.lines)):
        # It may have any name in it, and is for the maintainers.
        log.error("a command for the page has failed", command=name, lines=ended.lines)
        raise RefusedError(503, f"{name} has failed. The log of the page's server says where.")
    raise RefusedError(503, " ".join(ended.lines) or f"{name} has said nothing.")
