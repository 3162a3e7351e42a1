"""The two halves of the tests: both run, both are told of, and either makes the whole fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, **tests: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  kafka: k\n  cluster: c\n  e2e: e\n")
    for name, body in tests.items():
        marks = "@pytest.mark.kafka\n" if name == "waits" else ""
        (folder / f"test_{name}.py").write_text(f"import pytest\n\n{marks}def test_{name}():\n    {body}\n")
    command = [sys.executable, "-m", "tests", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("computes", "waits", "told"),
    [
        ("assert 0", "pass", "those that compute FAILED (1), those that wait passed"),
        ("pass", "assert 0", "those that compute passed, those that wait FAILED (1)"),
    ],
)
def test_either_half_makes_the_whole_fail_and_the_second_is_shown_after_the_first(
    tmp_path: Path, computes: str, waits: str, told: str
) -> None:
    done = run(tmp_path, computes=computes, waits=waits)
    assert done.returncode == 1, done.stdout + done.stderr
    assert told in done.stdout.splitlines()[-1]
    first, second = done.stdout.index("test_computes.py"), done.stdout.index("test_waits.py")
    assert first < second


def test_one_half_without_tests_is_no_failure(tmp_path: Path) -> None:
    done = run(tmp_path, computes="pass")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "those that wait are none" in done.stdout
