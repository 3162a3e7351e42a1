"""The sinks, started by `weir-streams` beside the enricher."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import orjson
import pytest

from tests.kafka.batches import make_batch
from tests.kafka.site import Service, Site, ids_of, until, written

pytestmark = pytest.mark.kafka


def pid_of(service: Service, role: str, nth: int = 0) -> int:
    """Return the id of the ``nth`` process that was started for a role."""

    def look() -> int | None:
        found = [line["pid"] for line in service.lines() if line["event"] == "started" and line["role"] == role]
        return int(found[nth]) if len(found) > nth else None

    return until(look, f"start {nth} of {role}")


def gone(pid: int) -> bool | None:
    stat = Path(f"/proc/{pid}/stat")
    return True if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z" else None


def test_the_file_rotates_and_kill_9_of_its_process_loses_nothing(site: Site) -> None:
    files = site.folder / "files"
    service = site.start(
        "enrich", "file",
        WEIR_FILE_PATH=str(files / "flows.log"), WEIR_FILE_MAX_BYTES="200000", WEIR_FILE_KEEP="500",
    )  # fmt: skip
    service.wait_for("partitions assigned")
    for number in range(40):
        site.send(make_batch(number * 250, 250))
    site.flush()
    until(lambda: len(list(files.glob("flows.log.*"))) > 3 or None, "rotated files")
    os.kill(pid_of(service, "file"), signal.SIGKILL)
    expected = {f"r1-{number}" for number in range(10_000)}
    until(lambda: ids_of(files / "flows.log") == expected or None, "all records in the files")
    assert pid_of(service, "file", 1) != pid_of(service, "file")
    children = [pid_of(service, "enrich"), pid_of(service, "file", 1)]
    assert service.stop() == 0
    assert all(gone(pid) for pid in children)
    # Nobody renames a file any more.
    assert all(file.stat().st_size <= 200_000 for file in files.iterdir())
    lines = set(written(files / "flows.log"))
    assert {orjson.loads(line)["id"] for line in lines} == expected
    assert len(lines) == len(expected), "a repeat is the same line"


def test_stdout_has_one_json_object_a_line(site: Site) -> None:
    service = site.start(WEIR_SINKS="stdout")
    service.wait_for("partitions assigned")
    site.send(make_batch(0, 100))
    site.flush()

    def shown() -> bool | None:
        flows = [line for line in service.lines() if "disposition" in line]
        return {flow["id"] for flow in flows} == {f"r1-{number}" for number in range(100)} or None

    until(shown, "100 records on stdout")
    assert service.stop() == 0


def test_roles_do_not_outlive_a_killed_supervisor(site: Site) -> None:
    service = site.start("enrich")
    pid = pid_of(service, "enrich")
    service.wait_for("partitions assigned")
    service.process.kill()
    service.process.wait()
    until(lambda: gone(pid), "the end of the enricher")


def test_a_file_that_cannot_be_written_stops_its_role_and_no_other(site: Site) -> None:
    service = site.start("enrich", "file", WEIR_FILE_PATH="/proc/no/such.log")
    line = service.wait_for("a role cannot run until what it said above is mended; the others go on")
    assert (line["role"], line["exit_code"]) == ("file", 2)
    service.wait_for("partitions assigned")
    site.send(make_batch(0, 10))
    site.flush()
    assert len(site.read_flows(10)) == 10
    assert service.stop() == 0
    service = site.start("file", WEIR_FILE_PATH="/proc/no/such.log")
    assert service.process.wait(240) == 2
    assert "WEIR_FILE_PATH" in service.log.read_text()
    assert "Traceback" not in service.log.read_text()
