"""`weir-probe` on disks that are full or damaged: policy is in force all the same, and what follows is reported."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.node import CLOSED, OPEN, Broker, Node, Probe
from tests.kafka.site import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def without_kafka(tmp_path: Path) -> Iterator[Node]:
    """Make a node whose run and state folders are small file systems. Nothing listens at Kafka's address."""
    made = Node(Broker(tmp_path), tmp_path)
    disks = [tmp_path / "run", tmp_path / "state"]
    for disk in disks:
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=40", "tmpfs", disk], check=True)
    yield made
    made.close()
    for disk in disks:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    """Take all bytes and inodes."""
    script = "head -c 1M /dev/zero > filler; for n in $(seq 60); do touch filler-$n; done; true"
    subprocess.run(["sh", "-c", script], cwd=disk, check=True, stderr=subprocess.DEVNULL)


def check_policy(node: Node) -> None:
    with node.socket(CLOSED, server=True) as closed, node.socket(OPEN, server=True) as opened, node.socket() as out:
        closed.settimeout(0.2)
        out.sendto(b"denied", (node.server.address(4), CLOSED))
        out.sendto(b"allowed", (node.server.address(4), OPEN))
        assert opened.recv(100) == b"allowed"
        with pytest.raises(TimeoutError):
            closed.recv(100)


def problems(probe: Probe) -> str:
    return probe.get("/readyz")[1]


@pytest.mark.timeout(900)
def test_policy_is_in_force_with_damaged_state_and_full_disks(without_kafka: Node) -> None:
    node, folder = without_kafka, without_kafka.folder
    for disk in (folder / "run", folder / "state"):
        fill(disk)
    probe = node.begin()
    check_policy(node)
    said = problems(probe)
    assert "state: the ledger cannot be written" in said
    assert "spool: the spool cannot be opened" in said
    for disk in (folder / "run", folder / "state"):
        for filler in disk.glob("filler*"):
            filler.unlink()
    until(lambda: "spool: " not in problems(probe) or None, "an open spool")
    assert probe.stop() == 0
    assert (folder / "run/ledger").stat().st_size > 0
    files = [folder / "run" / name for name in ("ledger", "ledger.pods", "address-intervals")]
    for path in [*files, *(folder / "state/spool").iterdir()]:
        path.write_bytes(bytes(64) + b"\n")
    probe = node.start()
    probe.wait_until_enforced()
    check_policy(node)
    page = probe.get("/metrics")[1]
    for sort in ("ledger", "bound pods", "address intervals", "spool"):
        assert f'kubeweir_probe_damaged_state_files_total{{holds="{sort}"}}' in page
    assert probe.stop() == 0


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[tuple[Node, Path]]:
    """Make a node whose state is on a disk that does not answer."""
    made, disk, image = Node(Broker(tmp_path), tmp_path), tmp_path / "state", tmp_path / "image"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext2", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    subprocess.run(["fsfreeze", "--freeze", disk], check=True)
    yield made, disk
    subprocess.run(["fsfreeze", "--unfreeze", disk], check=False, capture_output=True)
    made.close()
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.timeout(900)
def test_policy_is_in_force_while_the_disk_does_not_answer(frozen: tuple[Node, Path]) -> None:
    node, disk = frozen
    probe = node.begin()
    check_policy(node)
    until(lambda: "the spool's disk has not answered" in problems(probe) or None, "the report")
    subprocess.run(["fsfreeze", "--unfreeze", disk], check=True)
    until(lambda: "spool: " not in problems(probe) or None, "an open spool")
    assert probe.stop() == 0
