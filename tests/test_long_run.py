"""Tests of how the commands of long runs end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from enrich.runtime.process import Exit
from streams.cli.terminal import INTERRUPTED
from tests.long_run import carry_out, need


@pytest.mark.parametrize(
    ("found", "code", "is_kept"),
    [
        ((True, False), Exit.OK, False),
        ((True, True), INTERRUPTED, False),
        ((False, False), Exit.UNEXPECTED, True),
        ((False, True), Exit.UNEXPECTED, True),
        (KeyboardInterrupt(), INTERRUPTED, True),
    ],
)
def test_the_exit_code_says_what_was_found_and_the_folder_is_kept_if_something_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: tuple[bool, bool] | BaseException,
    code: int,
    is_kept: bool,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    used = []

    def work(folder: Path, seed: int) -> tuple[bool, bool]:
        used.append((folder, seed))
        if isinstance(found, BaseException):
            raise found
        return found

    with pytest.raises(SystemExit) as caught:
        carry_out("made", 7, work)
    assert caught.value.code == code
    [(folder, seed)] = used
    assert (seed, folder.is_dir()) == (7, is_kept)
    printed = capsys.readouterr()
    assert printed.out == "made: seed 7; again: python -m tests.made --seed 7\n"
    assert (f"made: what the services wrote is in {folder}\n" in printed.err) is is_kept


def test_a_missing_program_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    need("made", ["sh"])
    with pytest.raises(SystemExit) as caught:
        need("made", ["sh", "no-such-program"])
    assert caught.value.code == Exit.UNABLE
    assert capsys.readouterr().err == "made: needs no-such-program: run deploy/local/setup\n"
