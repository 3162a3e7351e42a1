"""The policy cases that come with the project, as pytest parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
CASES: Final = Path(__file__).with_name("cases")
PUBLIC: Final = CASES / "public"
"""Cases derived from public test suites; ``origin`` in each file names the suite."""
OWN: Final = CASES / "own"
"""Cases that this project found missing in the public suites."""


def case_files() -> list[Any]:
    """Return one parameter for each case, public cases first."""
    return [pytest.param(file, id=file.stem) for folder in (PUBLIC, OWN) for file in sorted(folder.rglob("*.json"))]
