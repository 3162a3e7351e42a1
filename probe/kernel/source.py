"""``bpf/policy.c`` and the parts that it includes, as one text.

bcc turns what looks like a map's method into a call of the kernel's only in the main file, so to it the parts that
touch maps cannot be headers. Here each ``#include "name"`` gives way to that file, and ``#line`` lets the compiler say
where an error is.
"""

from __future__ import annotations

import re
from pathlib import Path

_INCLUDE = re.compile(r'#include "([a-z_]+\.h)"$')


def joined(main: Path) -> str:
    """The text of ``main`` with its headers, which stand beside it, in their places; they include none of ours."""
    lines = []
    for number, line in enumerate(main.read_text().splitlines(), 1):
        found = _INCLUDE.match(line)
        if found is None:
            lines.append(line)
            continue
        part = main.with_name(found[1])
        lines += [f'#line 1 "{part.name}"', part.read_text(), f'#line {number + 1} "{main.name}"']
    return "\n".join(lines) + "\n"
