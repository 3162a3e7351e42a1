"""The daemons that deploy/local/setup unpacks from Debian's packages, for tests whose far end they are."""

from __future__ import annotations

import os
from pathlib import Path

UNPACKED = Path(os.environ.get("KUBEWEIR_CACHE", "/var/cache/kubeweir")) / "daemons"


def daemon(path: str) -> Path:
    """A file of theirs, by its path below the root."""
    found = UNPACKED / path
    assert found.exists(), f"{found} is not there: run deploy/local/setup"
    return found
