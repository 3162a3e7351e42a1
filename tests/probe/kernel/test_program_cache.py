"""A file of compiled programs is used only if it surely is what was stored; any other costs a compilation."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from probe.kernel import program_cache
from probe.kernel.bytecode import Bytecode, MapSpec, ProgramCode
from probe.kernel.program_cache import ProgramCache

_NAME = "0" * 64
_OTHER = "1" * 64

_LOAD_MAP = bytes([0x18, 0x11, 0, 0, 7, 0, 0, 0])
"""r1 = the map with the descriptor 7; the instruction's second half follows."""
_CODE = bytes([0xB7, 0, 0, 0, 0, 0, 0, 0]) + _LOAD_MAP + bytes(8) + bytes([0x95, 0, 0, 0, 0, 0, 0, 0])


def _compiled() -> Bytecode:
    maps = {"config": MapSpec(2, 4, 8, 16, 0, is_pinned=True)}
    return Bytecode("GPL", maps, {"pod_egress": ProgramCode.unlinked(_CODE, {7: "config"})})


def _stored(folder: Path) -> ProgramCache:
    cache = ProgramCache(folder)
    cache.store(_NAME, _compiled())
    return cache


def test_a_reference_to_a_map_is_kept_by_name() -> None:
    program = _compiled().programs["pod_egress"]
    assert program.references == {"config": [1]}
    assert program.code == _CODE.replace(_LOAD_MAP, _LOAD_MAP[:4] + bytes(4))
    assert program.linked({"config": 7}) == _CODE


def test_what_is_stored_is_loaded_by_another_start(tmp_path: Path) -> None:
    _stored(tmp_path / "programs")
    found = ProgramCache(tmp_path / "programs").load(_NAME)
    assert found == _compiled()
    assert (tmp_path / "programs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "programs" / _NAME).stat().st_mode & 0o777 == 0o600


def test_programs_that_are_not_stored_are_no_problem(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        assert ProgramCache(tmp_path / "programs").load(_NAME) is None
        assert _stored(tmp_path / "programs").load(_OTHER) is None
    assert not logs


def _is_cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _is_empty(file: Path) -> None:
    file.write_bytes(b"")


def _has_another_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def _is_of_another_version(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"programs 1", b"programs 0"))


def _has_other_programs(file: Path) -> None:
    _stored(file.parent / "other").store(_OTHER, _compiled())
    (file.parent / "other" / _OTHER).replace(file)


def _refers_to_a_map_that_is_missing(file: Path) -> None:
    one = _compiled()
    ProgramCache(file.parent).store(_NAME, Bytecode(one.license_name, {}, one.programs))


def _has_a_descriptor_left(file: Path) -> None:
    one = _compiled()
    code = ProgramCode(one.programs["pod_egress"].code, {})
    ProgramCache(file.parent).store(_NAME, Bytecode(one.license_name, one.maps, {"pod_egress": code}))


def _may_be_written_by_a_group(file: Path) -> None:
    file.chmod(0o660)


def _is_in_a_folder_that_all_may_write(file: Path) -> None:
    file.parent.chmod(0o777)


def _is_a_link(file: Path) -> None:
    file.replace(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def _is_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _is_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        _is_cut, _is_empty, _has_another_bit, _is_of_another_version, _has_other_programs,
        _refers_to_a_map_that_is_missing, _has_a_descriptor_left, _may_be_written_by_a_group,
        _is_in_a_folder_that_all_may_write, _is_a_link, _is_a_pipe, _is_a_folder,
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_trusted_is_left_out_and_reported(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "programs"
    cache = _stored(folder)
    damage(folder / _NAME)
    with structlog.testing.capture_logs() as logs:
        assert cache.load(_NAME) is None
    assert [(line["event"], line["file"]) for line in logs] == [
        ("compiled programs cannot be used, and are compiled again", str(folder / _NAME))
    ]


def test_a_file_of_another_user_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = _stored(tmp_path / "programs")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with structlog.testing.capture_logs() as logs:
        assert cache.load(_NAME) is None
    assert "belongs to the user" in logs[0]["error"]


def test_the_files_that_were_used_last_are_kept(tmp_path: Path) -> None:
    cache = ProgramCache(tmp_path, most=3)
    names = [str(number) * 64 for number in range(5)]
    for number, name in enumerate(names[:4]):
        cache.store(name, _compiled())
        os.utime(tmp_path / name, ns=(0, number + 1))
        # Each start uses the first one.
        assert cache.load(names[0]) is not None
    for other in (f".{_NAME}.01234567", "ledger"):
        (tmp_path / other).write_text("the first one is of a probe that was killed, the other is not ours")
        os.utime(tmp_path / other, ns=(0, 1))
    cache.store(names[4], _compiled())
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], names[3], names[4], "ledger"]


def test_a_disk_that_takes_nothing_costs_only_the_compilation(tmp_path: Path) -> None:
    (tmp_path / "programs").write_text("a file where the folder should be")
    with structlog.testing.capture_logs() as logs:
        cache = _stored(tmp_path / "programs")
        cache.remove(_NAME)
    assert [line["event"] for line in logs] == ["compiled programs cannot be stored: the next start compiles again"]


def test_an_unfinished_file_is_removed_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", is_full)
    with structlog.testing.capture_logs() as logs:
        _stored(tmp_path)
    assert "No space left on device" in logs[0]["error"]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, answer = _stored(tmp_path), threading.Event()

    def hangs(_what: str, _found: os.stat_result) -> None:
        answer.wait()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(program_cache, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(program_cache, "_check_owner", hangs)
    with structlog.testing.capture_logs() as logs:
        assert cache.load(_NAME) is None
    answer.set()
    assert "did not answer" in logs[0]["error"]


def test_many_processes_may_store_the_same_programs(tmp_path: Path) -> None:
    threads = [threading.Thread(target=lambda: _stored(tmp_path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ProgramCache(tmp_path).load(_NAME) == _compiled()
    assert [path.name for path in tmp_path.iterdir()] == [_NAME]
    shutil.rmtree(tmp_path)
