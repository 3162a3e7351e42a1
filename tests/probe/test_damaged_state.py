"""State of the last probe that is damaged, or that a full disk did not take: the next probe starts and goes on."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from enrich.model import NamedPort, Pod, Protocol
from enrich.runtime.process import StopServiceError, only_instance
from enrich.runtime.state_file import damaged_files
from enrich.sources.policy_store import PolicyStore, Stored
from enrich.wire.batch import encode_batch
from probe.cni.server import Server
from probe.export.segment import SpooledBatch, pack
from probe.export.spool import Spool
from probe.ledger import Ledger
from probe.node.address_intervals import AddressIntervals
from probe.node.assignments import Assignment, Assignments
from probe.node.bound_pods import BoundPods
from probe.node.left_interfaces import LeftInterfaces
from probe.node.link_clock import LinkClock
from tests.kafka.batches import make_header, make_rows
from tests.probe.export.spooling import append
from tests.waiting import until

WEB = Pod("shop", "web", "uid-1", {"app": "web"}, ("10.0.0.1", "fd00::1"), "n1",
          ports=(NamedPort("http", 80, Protocol.TCP),), started_ns=5)  # fmt: skip
RULE = [{"kind": "NetworkPolicy", "namespace": "shop", "name": "web"}]


@functools.cache
def batch(number: int) -> bytes:
    return encode_batch(make_header(number * 20, 20), make_rows(20))


def write_ledger(path: Path) -> None:
    with contextlib.closing(Ledger.open(path)) as ledger:
        for number in range(1, 4):
            assert ledger.number_of("rule", f"r{number}", RULE) == number
        ledger.number_of("endpoint", WEB.uid, {"namespace": "shop", "pod": "web", "uid": WEB.uid})


def write_spool(path: Path) -> None:
    spool = Spool(path.parent)
    for number in range(5):
        append(spool, batch(number))
    unsent = spool.next(0)
    assert unsent is not None
    spool.ack(unsent.position)
    spool.close()


def intervals(path: Path) -> AddressIntervals:
    return AddressIntervals("n1", path, lambda _: None, LinkClock())


def write_intervals(path: Path) -> None:
    made = intervals(path)
    made.start("c1")
    made.update({3: WEB}, 1)


def write_policy(path: Path) -> None:
    store = PolicyStore(path.parent)
    store.save(path.name, Stored("uid-of-definition", msgspec.Raw(b'{"kind":"ClusterNetworkPolicy"}')))
    until(path.exists)
    store.close()


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "ledger": ("ledger", write_ledger),
    "ledger.pods": ("bound pods", lambda path: BoundPods(path).save([WEB], [])),
    "ledger.assignments": (
        "assignments", lambda path: Assignments(path).assign(Assignment(3, "c", "eth0", WEB.uid, WEB)),
    ),
    "ledger.left": ("left interfaces", lambda path: LeftInterfaces(path).save({3: "vethabcdef01", 14: "docker-0"})),
    "address-intervals": ("address intervals", write_intervals),
    "spool/acked": ("spool", write_spool),
    "spool/000000000001.seg": ("spool", write_spool),
    "policies/deny": ("policies", write_policy),
}  # fmt: skip
"""How a probe writes each file, and how it is counted."""


def start(path: Path) -> None:
    """Do with the file at ``path`` what a probe does: read it at the start, and write it later."""
    match path.name:
        case "ledger":
            with contextlib.closing(Ledger.open(path)) as ledger:
                kept = ledger.number_of("rule", "later", RULE)
                ledger.flush()
                assert ledger.problem is None
            with contextlib.closing(Ledger.open(path)) as ledger:
                assert ledger.number_of("rule", "later") == kept
        case "ledger.pods":
            BoundPods(path).save([WEB], [])
            assert BoundPods(path).pods == {WEB.uid: WEB}
        case "ledger.assignments":
            Assignments(path).assign(Assignment(4, "d", "eth0", WEB.uid, WEB))
            assert 4 in Assignments(path).pods([])
        case "ledger.left":
            LeftInterfaces(path).save({5: "veth5"})
            assert LeftInterfaces(path).names == {5: "veth5"}
        case "address-intervals":
            made = intervals(path)
            made.start("c1")
            made.update({3: WEB}, 1)
            assert made.problem is None
        case "deny":
            assert len(list(PolicyStore(path.parent).load())) <= 1
        case _:
            spool = Spool(path.parent)
            assert spool.problem is None
            append(spool, batch(9))
            values = []
            while (unsent := spool.next(0)) is not None:
                values.append(unsent.value)
                spool.ack(unsent.position)
            assert values[-1] == batch(9)
            spool.close()


def change_owner(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, 12345)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def overwrite_in_the_middle(path: Path) -> None:
    """Write NUL bytes over 8 bytes of which the first is not NUL yet."""
    content = path.read_bytes()
    at = next(at for at in range(len(content) // 3, len(content)) if content[at])
    path.write_bytes(content[:at] + bytes(8) + content[at + 8 :])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "NUL bytes": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "NUL bytes in the middle": overwrite_in_the_middle,
    "another JSON": lambda path: path.write_text('{"pods": 7, "object": [], "definition": null}\n'),
    "nested JSON": lambda path: path.write_text("[" * 100_000 + "\n"),
    "not UTF-8": lambda path: path.write_bytes(b'["rule", 1, "\xff\xfe", null]\n'),
    "owner": change_owner,
    "folder": replace_by_folder,
    "pipe": replace_by_pipe,
    "link": replace_by_link,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file_is_set_aside_and_the_probe_goes_on(tmp_path: Path, name: str, damage: str) -> None:
    path, (sort, write) = tmp_path / name, WRITERS[name]
    path.parent.mkdir(exist_ok=True)
    write(path)
    assert path.is_file()
    before = damaged_files().get(sort, 0)
    DAMAGES[damage](path)
    start(path)
    # A probe that is killed leaves its last line or batch cut. What is wrong in `acked` is written over.
    is_usual = damage == "cut" and name in ("ledger", "spool/000000000001.seg")
    if not is_usual and (name != "spool/acked" or damage in ("owner", "folder", "pipe", "link")):
        assert damaged_files()[sort] > before
    start(path)


@pytest.mark.parametrize("name", ["ledger", "ledger.pods", "ledger.assignments", "ledger.left", "address-intervals"])
def test_no_changed_byte_keeps_a_probe_from_starting(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name][1](path)
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        for other in (0x00, ord('"'), content[at] ^ 0x01):
            path.write_bytes(content[:at] + bytes([other]) + content[at + 1 :])
            start(path)


def test_what_is_good_in_a_damaged_ledger_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    write_ledger(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\x00\n" + b"".join(lines[2:]))
    with contextlib.closing(Ledger.open(path)) as ledger:
        assert [ledger.meaning("rule", number) for number in (1, 2, 3)] == [RULE, None, RULE]
        assert ledger.number_of("rule", "r2", RULE) == 4
    assert path.with_name("ledger.damaged").read_bytes().startswith(lines[0])


def test_two_meanings_of_one_number_are_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    write_ledger(path)
    other = b'["rule",2,"other",[{"kind":"NetworkPolicy","namespace":"shop","name":"other"}]]\n'
    path.write_bytes(path.read_bytes() + other)
    with contextlib.closing(Ledger.open(path)) as ledger:
        assert [ledger.meaning("rule", number) for number in (1, 2, 3)] == [RULE, None, RULE]


def test_the_batches_behind_a_damaged_one_are_kept(tmp_path: Path) -> None:
    write_spool(tmp_path / "acked")
    segment = tmp_path / "000000000001.seg"
    content, size = bytearray(segment.read_bytes()), len(pack(SpooledBatch(batch(0))))
    content[2 * size + 40] ^= 0xFF
    segment.write_bytes(content)
    spool = Spool(tmp_path)
    values = []
    while (unsent := spool.next(0)) is not None:
        values.append(unsent.value)
    # It is not known which batch is missing, so those that Kafka has are sent again.
    assert values == [batch(number) for number in (0, 1, 3, 4)]
    assert spool.last_header is not None
    assert spool.last_header.first == 80
    assert (tmp_path / "segment.damaged").exists()


# --- full disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 64 kB with few inodes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=12", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, *, keep_files: bool = False) -> None:
    """Take all of a disk's bytes and, unless ``keep_files``, all of its inodes."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    with contextlib.suppress(OSError):
        for number in range(0 if keep_files else 20):
            (disk / f"filler-{number}").touch()


def empty(disk: Path) -> None:
    for path in disk.glob("filler*"):
        path.unlink()


@pytest.mark.kernel
@pytest.mark.parametrize("keep_files", [True, False])
def test_the_ledger_gives_numbers_on_a_full_disk_and_writes_them_when_there_is_room(
    disk: Path, keep_files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe.ledger_file._RETRY_S", 0.0)
    with contextlib.closing(Ledger.open(disk / "ledger")) as ledger:
        fill(disk, keep_files=keep_files)
        for number in range(1, 1000):
            assert ledger.number_of("rule", f"r{number}", RULE) == number
            ledger.flush()
        assert "No space left on device" in (ledger.problem or "")
        ledger.forget({"rule": set(range(1, 900))})
        assert len(ledger) == 100
        empty(disk)
        ledger.flush()
        assert ledger.problem is None
    with contextlib.closing(Ledger.open(disk / "ledger")) as ledger:
        assert len(ledger) == 100
        assert ledger.meaning("rule", 999) == RULE


@pytest.mark.kernel
def test_half_a_line_on_a_full_disk_is_taken_back(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.ledger_file._RETRY_S", 0.0)
    with contextlib.closing(Ledger.open(disk / "ledger")) as ledger:
        number = 0
        while ledger.problem is None:
            number += 1
            ledger.number_of("rule", f"r{number}", RULE)
            ledger.flush()
        assert (disk / "ledger").read_bytes().endswith(b"\n")
        with contextlib.closing(Ledger.open(disk / "ledger")) as killed:
            assert len(killed) == number - 1


@pytest.mark.kernel
def test_one_probe_runs_although_the_disk_is_full(disk: Path) -> None:
    fill(disk)
    with only_instance(disk / "probe.lock"):
        empty(disk)
        with pytest.raises(StopServiceError, match="another instance is running"), only_instance(disk / "probe.lock"):
            pass
    with only_instance(disk / "probe.lock"):
        assert (disk / "probe.lock").read_text() == str(os.getpid())


@pytest.mark.kernel
def test_the_spool_opens_when_the_disk_has_room(disk: Path) -> None:
    fill(disk)
    spool = Spool(disk / "spool")
    assert "No space left on device" in (spool.problem or "")
    assert (spool.next(0.01), spool.unacked_batches, spool.lost()) == (None, 0, {"spool_full": 0, "refused": 0})
    empty(disk)
    assert spool.open()
    append(spool, batch(0))
    unsent = spool.next(0)
    assert unsent is not None
    assert unsent.value == batch(0)
    spool.close()


@pytest.mark.kernel
def test_the_socket_of_the_plugin_is_made_when_the_disk_has_room(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.cni.server._RETRY_S", 0.01)
    fill(disk)
    server = Server(disk / "cni.sock", lambda request, _descriptor: request)
    server.start()
    try:
        assert "cannot be made" in (server.problem or "")
        empty(disk)
        until(lambda: server.problem is None)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(disk / "cni.sock"))
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(10) == b"x"
    finally:
        server.stop()
    shutil.rmtree(disk / "cni.sock", ignore_errors=True)


def test_a_socket_of_the_plugin_that_can_never_be_made_is_explained(tmp_path: Path) -> None:
    server = Server(tmp_path / ("long" * 30), lambda request, _descriptor: request)
    server.start()
    server.stop()
    assert "AF_UNIX path too long" in (server.problem or "")
