"""The rotated file, on a real file system."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.work_thread import start_work
from streams.sinks.file import FileSink
from streams.sinks.sink import SinkError
from streams.sinks.stdout import StdoutSink
from tests.waiting import until


def values(first: int, count: int) -> list[bytes]:
    return [b'{"n":%04d}' % number for number in range(first, first + count)]


def all_lines(folder: Path) -> list[bytes]:
    """Return the lines of all files, the oldest first."""
    files = sorted(folder.iterdir(), key=lambda file: -int(file.suffix[1:] if file.suffix != ".log" else 0))
    return [line for file in files for line in file.read_bytes().splitlines()]


def test_it_rotates_by_size_and_limits_the_number_of_files(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.log", 110, 3)
    for first in range(0, 100, 7):
        sink.write(values(first, 7))
    sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert all(file.stat().st_size <= 110 for file in tmp_path.iterdir())
    lines = all_lines(tmp_path)
    assert lines == values(105 - len(lines), len(lines))


def test_no_record_is_lost_below_the_limit_of_files(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.log", 64, 1000)
    sink.write(values(0, 200))
    sink.close()
    assert all_lines(tmp_path) == values(0, 200)


def test_keep_0_means_one_file(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.log", 40, 0)
    sink.write(values(0, 10))
    sink.close()
    assert [file.name for file in tmp_path.iterdir()] == ["a.log"]


def test_a_record_larger_than_the_limit_is_written(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.log", 5, 9)
    sink.write(values(0, 3))
    sink.close()
    assert all_lines(tmp_path) == values(0, 3)


def test_a_line_that_a_crash_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b'{"n":0001}\n{"n":00')
    sink = FileSink(path, 10_000, 1)
    sink.write(values(2, 1))
    sink.close()
    assert path.read_bytes() == b'{"n":0001}\n{"n":0002}\n'
    path.write_bytes(b"x" * 200_000)
    FileSink(path, 10_000, 1).close()
    assert path.read_bytes() == b""


def test_a_file_that_logrotate_moved_away_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    sink = FileSink(path, 10_000, 1)
    sink.write(values(0, 1))
    path.rename(tmp_path / "moved")
    sink.write(values(1, 1))
    sink.close()
    assert path.read_bytes() == b'{"n":0001}\n'
    assert (tmp_path / "moved").read_bytes() == b'{"n":0000}\n'


def test_a_file_that_logrotate_truncated_grows_no_nul_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    sink = FileSink(path, 100, 1)
    sink.write(values(0, 5))
    os.truncate(path, 0)
    sink.write(values(5, 8))
    assert path.read_bytes().splitlines() == values(5, 8)
    assert not (tmp_path / "a.log.1").exists(), "its size counts from the truncation"

    def full(_descriptor: int, _data: bytes) -> int:
        os.truncate(path, 0)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(SinkError, match="No space left"):
            sink.write(values(13, 1))
    sink.write(values(13, 1))
    sink.close()
    assert path.read_bytes() == b'{"n":0013}\n'


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "log" / "a.log"
    sink = FileSink(path, 10_000, 1)
    sink.write(values(0, 1))
    shutil.rmtree(path.parent)
    sink.write(values(1, 1))
    assert path.read_bytes() == b'{"n":0001}\n'
    shutil.rmtree(path.parent)
    path.parent.write_text("no folder")
    with pytest.raises(SinkError, match=r"a\.log: "):
        sink.write(values(2, 1))
    path.parent.unlink()
    sink.write(values(2, 1))
    sink.close()
    assert path.read_bytes() == b'{"n":0002}\n'


def test_a_standard_output_that_takes_nothing_is_one_line_and_an_exit_code() -> None:
    with (
        Path("/dev/full").open("wb") as full,
        pytest.raises(StopServiceError, match="standard output cannot") as caught,
    ):
        StdoutSink(full).write(values(0, 1))
    assert caught.value.code == Exit.UNABLE


def test_an_impossible_path_is_reported_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StopServiceError, match="WEIR_FILE_PATH"):
        FileSink(tmp_path / "file" / "a.log", 100, 1)


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe"])
def test_what_is_not_a_file_is_refused_and_blocks_nothing(kind: str, tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    path = {"pipe": pipe, "device": Path("/dev/null"), "link to a pipe": link}[kind]
    with pytest.raises(StopServiceError, match="cannot be written: it is not a regular file"):
        FileSink(path, 100, 1)


def test_a_file_system_that_does_not_answer_holds_up_the_writes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, back = tmp_path / "folder" / "a.log", threading.Event()
    make = Path.mkdir

    def hanging(folder: Path, **options: Any) -> None:
        back.wait()
        make(folder, **options)

    monkeypatch.setattr(Path, "mkdir", hanging)
    monkeypatch.setattr("streams.sinks.file._ANSWER_S", 0.01)
    sink = FileSink(path, 100, 1)
    sink.close()
    writing = start_work(lambda: sink.write(values(0, 2)), "write")
    with pytest.raises(TimeoutError):
        writing.result(0.1)
    back.set()
    writing.result(60)
    assert path.read_bytes().splitlines() == values(0, 2)
    sink.close()


def test_a_file_system_that_does_not_answer_takes_one_thread_however_often_its_sink_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, back, hanging = tmp_path / "folder" / "a.log", threading.Event(), list[threading.Thread]()
    make = Path.mkdir

    def hang(folder: Path, **options: Any) -> None:
        hanging.append(threading.current_thread())
        back.wait()
        make(folder, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", hang)
        patched.setattr("streams.sinks.file._ANSWER_S", 0.01)
        for _ in range(3):
            FileSink(path, 100, 1).close()
        back.set()
        until(lambda: hanging and not hanging[0].is_alive())
    assert len(hanging) == 1
    # It is looked at again once it has answered: here by a path that has become a folder.
    path.unlink()
    path.mkdir()
    with pytest.raises(StopServiceError, match="cannot be written"):
        FileSink(path, 100, 1)


def test_a_file_that_became_a_pipe_is_retried(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    sink = FileSink(path, 100, 1)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SinkError, match="not a regular file"):
        sink.write(values(0, 1))
    path.unlink()
    sink.write(values(0, 1))
    assert path.read_bytes().splitlines() == values(0, 1)
    sink.close()


def test_it_rotates_by_age_of_the_first_record_and_compresses_rotated_files(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    old, young = b'{"timestamp":"2026-01-01T00:00:00.000000000Z"}', b'{"timestamp":"2999-01-01T00:00:00.000000000Z"}'
    path.write_bytes(old + b"\n")
    sink = FileSink(path, 10_000, 2, max_age_s=3600, compress=True)
    sink.write([])
    assert not path.read_bytes()
    assert gzip.decompress((tmp_path / "a.log.1.gz").read_bytes()) == old + b"\n"
    for _ in range(3):
        sink.write([young])
    assert path.read_bytes() == (young + b"\n") * 3
    sink.close()
    for first in range(0, 90, 10):
        sink = FileSink(path, 100, 2, compress=True)
        sink.write(values(first, 9))
        sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.1.gz", "a.log.2.gz"]


def test_a_rotation_finds_files_that_were_rotated_without_compression(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    for number in (1, 2):
        (tmp_path / f"a.log.{number}").write_bytes(b"%d" % number)
    sink = FileSink(path, 20, 3, compress=True)
    sink.write(values(0, 1))
    sink.write(values(1, 1))
    sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.1.gz", "a.log.2", "a.log.3"]
    assert (tmp_path / "a.log.3").read_bytes() == b"2"
