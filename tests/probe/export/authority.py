"""A certificate of an authority, for tests of what reads its file."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_authority(file: Path) -> None:
    """Replace ``file`` by an authority's certificate, at once."""
    made = file.with_suffix(".new")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-subj", "/CN=authority", "-days", "3", "-keyout", str(file.with_suffix(".key")),
               "-out", str(made)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    made.replace(file)
