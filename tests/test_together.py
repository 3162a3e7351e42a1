"""Tests of ``make test``'s five processes: all run and are reported, and it fails if one of them fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MARKS = {
    "computing": "",
    "tcx": "@pytest.mark.kernel\n",
    "clsact": "@pytest.mark.kernel\n@pytest.mark.clsact\n",
    "kafka": "@pytest.mark.kafka\n",
    "cluster": "@pytest.mark.cluster\n",
}


def run(folder: Path, **bodies: str) -> subprocess.CompletedProcess[str]:
    markers = "".join(f"  {name}: m\n" for name in ("kernel", "clsact", "kafka", "cluster", "e2e"))
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers =\n{markers}")
    for part, body in bodies.items():
        (folder / f"test_{part}.py").write_text(f"import pytest\n\n{MARKS[part]}def test_{part}():\n    {body}\n")
    command = [sys.executable, "-m", "tests", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("failing", MARKS)
def test_a_failing_part_fails_the_run_and_outputs_are_not_mixed(tmp_path: Path, failing: str) -> None:
    done = run(tmp_path, **{part: "assert 0" if part == failing else "pass" for part in MARKS})
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes = ", ".join(f"{part} {'FAILED (exit code 1)' if part == failing else 'passed'}" for part in MARKS)
    assert f"test: {outcomes}, " in done.stdout
    assert done.stdout.splitlines()[-1] == "4 passed, 1 failed, 0 skipped"
    places = [done.stdout.index(f"test_{part}.py") for part in MARKS]
    assert places == sorted(places)


def test_a_part_without_tests_is_not_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, computing="pass")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kafka ran no test" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


def test_a_part_that_is_killed_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, computing="pass", kafka="import os; os._exit(9)")
    assert done.returncode == 9, done.stdout + done.stderr
    assert "kafka FAILED (exit code 9)" in done.stdout
