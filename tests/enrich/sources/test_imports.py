"""What a process imports before it connects to an API server, which many never do."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = (
    "import sys, {module}; print([name for name in ('kubernetes', 'oauthlib', 'pydantic') if name in sys.modules])"
)


@pytest.mark.parametrize("module", ["streams.main", "streams.roles.enrich", "streams.roles.sinks", "probe.main"])
def test_the_official_client_is_imported_only_to_connect(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
