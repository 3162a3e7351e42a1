"""The kernel program's parts become one text, of which the compiler still says file and line."""

from __future__ import annotations

import re
from pathlib import Path

import bpf
from probe.kernel.source import joined


def test_a_part_stands_where_it_was_included_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "part.h").write_text("int part;\n")
    main = tmp_path / "main.c"
    main.write_text('#include <uapi/linux/bpf.h>\n#include "part.h"\nint rest;\n')
    assert joined(main).splitlines() == [
        "#include <uapi/linux/bpf.h>",
        '#line 1 "part.h"',
        "int part;",
        "",
        '#line 3 "main.c"',
        "int rest;",
    ]


def test_no_part_of_the_program_is_left_to_the_compiler_to_include() -> None:
    """It would compile, and its lookups in maps would not be the kernel's."""
    assert not re.search(r'^#include "', joined(bpf.POLICY_SOURCE), re.MULTILINE)
    parts = {part.name for part in bpf.ROOT.glob("*.h")}
    assert parts == set(re.findall(r'^#line 1 "(.*)"$', joined(bpf.POLICY_SOURCE), re.MULTILINE))
