"""Runs cases and says which rows are not as they should be."""

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

_SHOWN: Final = 50
"""Rows of a case that are shown one by one."""


class Prober(Protocol):
    """A way to ask about rows."""

    def probe(self, state: State, rows: Sequence[Row]) -> list[str]:
        """For each row "allowed", "denied", or what else was seen."""

    def close(self) -> None:
        """End what it holds."""


def select(folder: Path, only: str = "*") -> list[Path]:
    """The files below a folder, all of which are cases, whose id or path fits. Raises MalformedError, if none does."""
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise MalformedError(f"{folder}: there is no case (*.json) in it")
    ids = {file: check(file).id for file in files}
    found = [file for file, name in ids.items() if _fits(name, only) or _fits(str(file.relative_to(folder)), only)]
    if not found:
        raise MalformedError(f"{folder}: no case of {len(files)} fits {only!r}")
    return found


def _fits(name: str, only: str) -> bool:
    return fnmatch.fnmatchcase(name, only)


def check(file: Path) -> Case:
    """A case, all of which makes sense. Raises MalformedError with the file's name."""
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
    """Each case, in one family after the other, with a line for every row that fails; none: it passed."""
    with (
        tempfile.TemporaryDirectory(prefix="kubeweir-conformance-") as folder,
        closing(Fleet(Path(folder))) as fleet,
        closing(_PROBERS[mode](fleet)) as prober,
    ):
        for family, file in itertools.product(families, files):
            case = load(file, family)
            failures = list(_failures(case, fleet, prober))
            if len(failures) > _SHOWN:
                failures[_SHOWN:] = [f"and {len(failures) - _SHOWN} rows more"]
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
        wanted = list(rows(step.expect))
        for row, seen in zip(wanted, prober.probe(state, wanted), strict=True):
            expected = "allowed" if row.allowed else "denied"
            if seen != expected:
                yield f"step {number}: {row}: expected {expected}, seen {seen}; explain: {explain(state, row)}"
