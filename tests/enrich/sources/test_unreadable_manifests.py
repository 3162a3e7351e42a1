"""What cannot be read in a folder of manifests is an error that names it, because any policy may be in it. A service
keeps what it had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from enrich.index.cluster import Cluster
from enrich.model import Name
from enrich.sources.manifest_documents import ManifestError
from enrich.sources.manifest_files import read_folder
from enrich.sources.manifests import ManifestSource
from enrich.sources.source import SourceError
from streams.cli.main import command
from tests.ordinary_rights import ordinary_rights
from tests.waiting import until

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: shop}
spec: {podSelector: {}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "manifests"
    (made / "sub").mkdir(parents=True)
    (made / "one.yaml").write_text(POLICY % "one")
    (made / "sub/two.yaml").write_text(POLICY % "two")
    yield made
    for path in (made, *made.glob("*/")):
        path.chmod(0o700)


def problems(folder: Path) -> list[str]:
    with pytest.raises(ManifestError) as raised:
        read_folder(folder)
    return raised.value.problems


def _entry(folder: Path, kind: str) -> None:
    match kind:
        case "FIFO":
            os.mkfifo(folder / "odd.yaml")
        case "dangling link":
            (folder / "odd.yaml").symlink_to("nothing.yaml")
        case "loop":
            (folder / "odd.yaml").symlink_to("odd.yaml")
        case "device":
            (folder / "odd.yaml").symlink_to("/dev/zero")
        case "folder" | "file":
            (folder / ("sub" if kind == "folder" else "sub/two.yaml")).chmod(0)
        case "no search":
            (folder / "sub").chmod(0o400)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("FIFO", "odd.yaml: cannot be read: it is neither a file nor a folder"),
        ("device", "odd.yaml: cannot be read: it is neither a file nor a folder"),
        ("dangling link", "odd.yaml: cannot be read: it is a link to nothing.yaml, which does not exist"),
        ("loop", "odd.yaml: cannot be read: Too many levels of symbolic links"),
        ("folder", "sub: cannot be read: Permission denied"),
        ("file", "sub/two.yaml: cannot be read: Permission denied"),
        ("no search", "sub/two.yaml: cannot be read: Permission denied"),
    ],
)
def test_it_is_named_by_services_and_commands(folder: Path, kind: str, said: str) -> None:
    _entry(folder, kind)
    name, _, why = said.split(": ")
    with ordinary_rights():
        assert problems(folder) == [said]
        with pytest.raises(SourceError, match=said):
            ManifestSource(folder, Cluster()).start()
        for arguments in (["check", folder], ["explain", "--source", f"manifests:{folder}", "a/b", "a/c:1"]):
            done = CliRunner().invoke(command, [*map(str, arguments)])
            assert done.exit_code == 2, done.output
            assert f"{folder}/{name}" in done.output
            assert why in done.output
        assert CliRunner().invoke(command, ["backtest", str(folder)]).exit_code == 2


def test_a_folder_too_deep_to_be_read_is_named(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=descriptor)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    (said,) = problems(folder)
    assert said.startswith("dddd")
    assert said.endswith("cannot be read: File name too long")


def test_a_folder_that_cannot_be_read_itself_is_no_empty_one(folder: Path) -> None:
    folder.chmod(0)
    with ordinary_rights():
        assert problems(folder) == [f"{folder}: cannot be read: Permission denied"]
        assert problems(folder / "sub") == [f"{folder}/sub cannot be read: Permission denied"]
        for path in (folder, folder / "sub"):
            done = CliRunner().invoke(command, ["check", str(path)])
            assert (done.exit_code, f"{path}: error: cannot be read: Permission denied" in done.output) == (2, True)


def test_hidden_ones_and_links_to_folders_may_be_anything(folder: Path) -> None:
    (folder / ".git").mkdir(0)
    (folder / ".odd.yaml").symlink_to("nothing")
    (folder / "loop").symlink_to(".")
    (folder / "link.yaml").symlink_to("sub")
    (folder / "real.yaml").symlink_to("one.yaml")
    (folder / "real.yaml").unlink()
    os.mkfifo(folder / "fifo")
    with ordinary_rights():
        assert {one.key.name for one in read_folder(folder)} == {"one", "two"}


def test_a_service_keeps_what_it_had_and_notices_when_it_can_read_again(folder: Path) -> None:
    cluster = Cluster()
    source = ManifestSource(folder, cluster)
    both = {Name("shop", "one"), Name("shop", "two")}

    def cannot_read(name: str) -> bool:
        """Whether the reader, or the kernel's watch if it was just being made, says so."""
        said = source.problem() or ""
        return name in said and "Permission denied" in said

    with ordinary_rights():
        source.start()
        try:
            assert set(cluster.policies()) == both
            (folder / "sub").chmod(0)
            (folder / "one.yaml").unlink()
            until(lambda: cannot_read("sub"))
            assert set(cluster.policies()) == both
            (folder / "sub").chmod(0o700)
            until(lambda: set(cluster.policies()) == {Name("shop", "two")})
            (folder / "new").mkdir(0)
            until(lambda: cannot_read("new"))
            (folder / "new").chmod(0o700)
            until(lambda: source.problem() is None)
            # The kernel had no watch in it when it appeared.
            (folder / "new/three.yaml").write_text(POLICY % "three")
            until(lambda: Name("shop", "three") in cluster.policies())
        finally:
            source.stop()
