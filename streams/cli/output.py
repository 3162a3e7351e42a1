"""The forms in which `weir observe` shows flows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

import orjson

from streams.cli.columns import Read, as_object, row_of
from streams.cli.table import COMPACT, NORMAL, WIDE, FlowTable, layout_of
from streams.cli.terminal import PipeConsole
from streams.observing.observe import Shown

_LAYOUTS: Final = {"table": NORMAL, "wide": WIDE, "compact": COMPACT}
OUTPUTS: Final = (*_LAYOUTS, "json")


def writer_of(output: str, fields: Mapping[str, Read] | None) -> Callable[[Shown], None]:
    """Return a function that writes a flow in one of :data:`OUTPUTS`. ``fields``: the only ones to show, if given."""
    if output != "json":
        layout = _LAYOUTS[output] if fields is None else layout_of(fields)
        return FlowTable(PipeConsole(highlight=False), layout).write

    def write(shown: Shown) -> None:
        value = shown.value
        if fields is not None:
            value = orjson.dumps(as_object(list(fields), row_of(fields, shown.flow)))
        sys.stdout.buffer.write(value + b"\n")
        sys.stdout.buffer.flush()

    return write
