"""The daemons that deploy/local/setup unpacks from Debian's packages, for tests that send records or alerts to them."""

from __future__ import annotations

import os
from pathlib import Path

UNPACKED = Path(os.environ.get("KUBEWEIR_CACHE", "/var/cache/kubeweir")) / "daemons"


def daemon(path: str) -> Path:
    """Return a file of a daemon, by the path that it has when the package is installed."""
    found = UNPACKED / path
    assert found.exists(), f"{found} does not exist: run deploy/local/setup"
    return found
