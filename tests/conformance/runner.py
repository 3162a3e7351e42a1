"""Run cases, and report the rows whose outcome is not the expected one."""

from __future__ import annotations

import fnmatch
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, Protocol

from enrich.parse.cursor import InvalidObjectError
from tests.conformance.case import Case, MalformedError, Row, load, rows
from tests.conformance.explain import explain
from tests.conformance.fleet import Fleet, NotInForceError
from tests.conformance.frames import Frames
from tests.conformance.state import State
from tests.conformance.wire import Wire

Mode = Literal["run", "wire"]

_MAX_FAILURES: Final = 50
"""The number of failing rows that are printed for a case."""


class Prober(Protocol):
    """A way to find the outcomes of rows."""

    def probe(self, state: State, rows: Sequence[Row]) -> list[str]:
        """Return "allowed", "denied" or another observed outcome for each row."""

    def close(self) -> None:
        """Release its resources."""


def select(folder: Path, only: str = "*") -> list[Path]:
    """Return the files whose id or path matches, and check all files. Raises MalformedError, also if none matches."""
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise MalformedError(f"{folder} has no case (*.json)")
    ids = {file: check(file).id for file in files}
    found = [
        file for file, name in ids.items() if _matches(name, only) or _matches(str(file.relative_to(folder)), only)
    ]
    if not found:
        raise MalformedError(f"{folder}: none of {len(files)} cases matches {only!r}")
    return found


def _matches(name: str, only: str) -> bool:
    return fnmatch.fnmatchcase(name, only)


def check(file: Path) -> Case:
    """Read a case and check all of its steps. Raises MalformedError with the file's name."""
    where = ""
    try:
        case = load(file, 4)
        state = State(case)
        for number, step in enumerate(case.steps, 1):
            where = f"step {number}: "
            for action in step.actions:
                state.apply(action)
            state.check(step.expect)
    except MalformedError as error:
        raise MalformedError(f"{file}: {where}{error}") from error
    return case


def run(files: Sequence[Path], families: Sequence[int], mode: Mode) -> Iterator[tuple[Path, list[str]]]:
    """Run each case in one family after the other; yield it with a line for each failing row, or none if it passed."""
    with (
        tempfile.TemporaryDirectory(prefix="kubeweir-conformance-") as folder,
        closing(Fleet(Path(folder))) as fleet,
        closing(_PROBERS[mode](fleet)) as prober,
    ):
        for family, file in itertools.product(families, files):
            case = load(file, family)
            failures = list(_failures(case, fleet, prober))
            if len(failures) > _MAX_FAILURES:
                failures[_MAX_FAILURES:] = [f"and {len(failures) - _MAX_FAILURES} more rows"]
            yield file, [f"FAIL {case.id} (IPv{family}): {line}" for line in failures]


_PROBERS: Final[Mapping[str, type[Frames] | type[Wire]]] = {"run": Frames, "wire": Wire}


def _failures(case: Case, fleet: Fleet, prober: Prober) -> Iterator[str]:
    state = State(case)
    for number, step in enumerate(case.steps, 1):
        for action in step.actions:
            state.apply(action)
        fleet.arrange(state, fresh=number == 1)
        try:
            fleet.install(state)
        except (NotInForceError, InvalidObjectError) as error:
            yield f"step {number}: not in force: {error}"
            continue
        expected_rows = list(rows(step.expect))
        for row, outcome in zip(expected_rows, prober.probe(state, expected_rows), strict=True):
            expected = "allowed" if row.allowed else "denied"
            if outcome != expected:
                yield f"step {number}: {row}: expected {expected}, found {outcome}; explain: {explain(state, row)}"
