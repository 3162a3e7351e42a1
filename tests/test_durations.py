"""Tests of how long groups of tests took, and of the order that is made of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.durations import Duration, keep, lines, measured, merged, read
from tests.work_queue import groups_of

HERE = "computing tests/test_durations.py"
GONE = "computing tests/test_that_is_gone.py"


def item(file: str) -> Any:
    """Return what the queue looks at of a test."""
    return SimpleNamespace(nodeid=f"{file}::test", iter_markers=lambda: iter(()))


def test_what_a_run_has_measured_orders_the_next() -> None:
    items = [item("tests/a.py"), item("tests/b.py"), item("tests/b.py"), item("tests/new.py")]
    assert [group.name for group in groups_of(items, {})] == ["tests/b.py", "tests/a.py", "tests/new.py"]
    # The mean of ten tests is a second, and that of two is four.
    known = {"computing tests/b.py": Duration(10, 10.0, 1.0), "computing tests/a.py": Duration(2, 8.0, 1.0)}
    found = [(group.name, group.seconds) for group in groups_of(items, known)]
    assert found == [("tests/a.py", 4.0), ("tests/b.py", 2.0), ("tests/new.py", 0.15)]


def test_what_is_measured_is_kept_and_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    kept, first, second = tmp_path / "kept.json", tmp_path / "a", tmp_path / "b"
    with measured(HERE, 3, first):
        sum(range(100_000))
    with measured(GONE, 1, second):
        pass
    with pytest.raises(ValueError, match="red"), measured("tcx tests/red.py", 1, second):
        raise ValueError("red")
    with second.open("ab") as file:
        file.write(b'{"half')
    found = merged([first, second, tmp_path / "none"])
    assert set(found) == {HERE, GONE}
    assert found[HERE].tests == 3
    assert found[HERE].cpu_seconds >= 0
    keep(found, kept)
    assert set(read(kept)) == {HERE}
    keep({}, kept)
    assert read(kept)[HERE] == found[HERE], "another run had other tests"


def test_a_name_that_no_file_can_have_does_not_end_the_run(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    keep({f"tcx {'a' * 5000}": Duration(1, 2.0, 3.0), HERE: Duration(1, 2.0, 3.0)}, kept)
    assert set(read(kept)) == {HERE}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"a": 1}',
        b"\xff",
        pytest.param(b'{"a": ' * 100_000, id="deep"),
        b'{"a": {"tests": 0, "seconds": 1, "cpu_seconds": 1}}',
        b'{"a": {"tests": 1, "seconds": -1, "cpu_seconds": 1}}',
        pytest.param(b'{"a": {"tests": 1%s, "seconds": 1, "cpu_seconds": 1}}' % (b"0" * 400), id="many"),
    ],
)
def test_a_damaged_file_is_like_none(content: bytes, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    assert read(kept) == {}
    kept.write_bytes(content)
    assert read(kept) == {}
    keep({HERE: Duration(1, 2.0, 3.0)}, kept)
    assert set(read(kept)) == {HERE}


def test_what_took_most_cpu_is_shown_first() -> None:
    taken = {HERE: Duration(1, 2.0, 3.0), GONE: Duration(1, 20.0, 1.0)}
    assert lines(taken) == [
        "      2 s     3 s of CPU  tests/test_durations.py",
        "     20 s     1 s of CPU  tests/test_that_is_gone.py",
    ]
