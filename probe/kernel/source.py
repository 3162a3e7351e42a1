"""Join ``bpf/policy.c`` and the headers that it includes into one text.

bcc rewrites map accesses (``map.lookup(&key)``) into helper calls in the main file only, not in headers. Therefore each
``#include "name"`` is replaced by that file's text; ``#line`` keeps file and line right in compiler messages.
"""

from __future__ import annotations

import re
from pathlib import Path

_INCLUDE = re.compile(r'#include "([a-z_]+\.h)"$')


def joined(main: Path) -> str:
    """Return the text of ``main`` with its own headers inserted. They must not include one another."""
    lines = []
    for number, line in enumerate(main.read_text().splitlines(), 1):
        found = _INCLUDE.match(line)
        if found is None:
            lines.append(line)
            continue
        part = main.with_name(found[1])
        lines += [f'#line 1 "{part.name}"', part.read_text(), f'#line {number + 1} "{main.name}"']
    return "\n".join(lines) + "\n"
