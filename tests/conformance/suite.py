"""The public cases beside this checkout, as pytest parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT.parent / "shared" / "conformance"
OWN: Final = Path(__file__).with_name("cases")
"""A few cases of this project's own, so that a clone without the others runs the runner too."""

needs_public_cases = pytest.mark.skipif(
    not (FOLDER / "cases").is_dir(),
    reason="no ../shared/conformance beside this checkout: the public policy cases did not run",
)


def case_files() -> list[Any]:
    """The public cases; one that is skipped and says so where there is no folder. The project's own besides."""
    public = sorted((FOLDER / "cases").rglob("*.json"))
    params = [pytest.param(file, id=file.stem) for file in [*public, *sorted(OWN.rglob("*.json"))]]
    return params if public else [*params, pytest.param(None, marks=needs_public_cases)]
