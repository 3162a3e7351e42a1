"""Tests of the report of a test run and of the hunt's example of a failure, with the output of real pytest runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import hunt
from tests.hunt import example
from tests.report import lines, merged

TESTS = """
import pytest
from hypothesis import given, strategies as st

def test_passes():
    pass

@pytest.mark.kafka
def test_fails():
    assert False

@pytest.mark.kernel
@pytest.mark.parametrize("number", [1, 2])
def test_skips(number):
    pytest.skip("no such device here")

@given(st.integers(), st.text())
def test_small(number, text):
    assert number < 1000
"""


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> subprocess.CompletedProcess[str]:
    """A pytest run of the tests above, with the project's own conftest."""
    (tmp_path / "test_made.py").write_text(TESTS)
    config = str(request.config.rootpath / "pyproject.toml")
    command = [sys.executable, "-m", "pytest", "-p", "tests.report", "-p", "tests.conftest"]
    command += ["-c", config, "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    command += ["--report", str(tmp_path / "report"), str(tmp_path)]
    return subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, check=False)


def test_each_ring_and_each_reason_has_a_line(run: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    assert run.returncode == 1, run.stdout + run.stderr
    rings = merged([tmp_path / "report", tmp_path / "absent"])
    assert {name: (ring.passed, ring.failed) for name, ring in rings.items() if ring.passed or ring.failed} == {
        "unit": (1, 1),
        "kafka": (0, 1),
    }
    made = lines(rings)
    assert [line.split()[0] for line in made] == ["unit", "kernel", "kafka", "skipped"]
    assert made[-1] == "  skipped 2: no such device here"


def test_the_smallest_failing_input_is_printed_as_an_example(run: subprocess.CompletedProcess[str]) -> None:
    found = example(run.stdout)
    assert found == "@example(\n    number=1000,\n    text='',\n)"
    assert example("1 passed") is None


def test_ctrl_c_ends_the_hunt_with_what_it_has_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seed: int, arguments: tuple[str, ...]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hunt, "search", interrupted)
    done = CliRunner().invoke(hunt.main, [])
    assert done.exit_code == 130
    assert done.output == "hunt: stopped; 0 seeds, nothing found\n"
