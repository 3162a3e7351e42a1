"""What a process imports before it connects to an API server, which many never do."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = "import sys, {module}; print([name for name in {names} if name in sys.modules])"


@pytest.mark.parametrize("module", ["streams.main", "streams.roles.enrich", "streams.roles.sinks", "probe.main"])
def test_the_official_client_is_imported_only_to_connect(module: str) -> None:
    assert imported(module, "kubernetes", "oauthlib", "pydantic") == "[]"


def test_what_supervises_the_roles_imports_nothing_that_only_roles_need() -> None:
    assert imported("streams.main", "numpy", "urllib3", "yaml", "confluent_kafka", "faust") == "[]"


def imported(module: str, *names: str) -> str:
    program = PROGRAM.format(module=module, names=names)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
