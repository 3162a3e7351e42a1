"""The routes file in use, on a real file system: replaced as editors and ConfigMaps do, removed, and brought back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from enrich.runtime.process import Exit, StopServiceError
from streams.routes.model import Routes
from streams.routes.routes_file import RoutesFile
from tests.waiting import until


def text(*names: str) -> str:
    return "version: 1\nroutes:\n" + "".join(f"  - {{name: {name}, outputs: [{{stdout: {{}}}}]}}\n" for name in names)


def names(routes: Routes) -> list[str]:
    if routes.routes[0].name == "impossible":
        raise StopServiceError("that cannot be", Exit.UNABLE)
    return [route.name for route in routes.routes]


def is_current(file: RoutesFile[list[str]], name: str) -> bool:
    return file.current == [name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """As a mounted ConfigMap has it: a link to a link to a folder."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "routes.yaml").write_text(text("a"))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "routes.yaml").symlink_to("..data/routes.yaml")
    return tmp_path / "routes.yaml"


@pytest.fixture
def file(path: Path) -> Iterator[RoutesFile[list[str]]]:
    made = RoutesFile(path, (), names)
    made.start()
    yield made
    made.stop()


def test_a_config_map_that_changes_is_applied(path: Path, file: RoutesFile[list[str]]) -> None:
    assert file.current == ["a"]
    (path.parent / "v2").mkdir()
    (path.parent / "v2" / "routes.yaml").write_text(text("a", "b"))
    (path.parent / "..new").symlink_to("v2")
    (path.parent / "..new").rename(path.parent / "..data")
    until(lambda: file.current == ["a", "b"])
    assert file.problem() is None


@pytest.mark.parametrize(
    ("wrong", "message"), [(text("a", "a"), "routes[1].name"), ("", "is empty"), (text("impossible"), "that cannot be")]
)
def test_one_that_cannot_be_changes_nothing_until_it_is_mended(
    path: Path, file: RoutesFile[list[str]], wrong: str, message: str
) -> None:
    path.write_text(wrong)
    until(lambda: message in (file.problem() or ""))
    assert file.current == ["a"]
    path.write_text(text("c"))
    until(lambda: file.problem() is None)
    assert file.current == ["c"]


def test_what_could_not_be_made_of_a_good_file_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As topics while Kafka is away."""
    monkeypatch.setattr("streams.config.hot_reload._RETRY_S", 0.2)
    away: list[str] = []

    def make(routes: Routes) -> list[str]:
        if away:
            raise StopServiceError("Kafka is away", Exit.UNABLE)
        return names(routes)

    made = RoutesFile(path, (), make)
    made.start()
    try:
        away.append("yes")
        path.write_text(text("b"))
        until(lambda: made.problem() == "Kafka is away")
        assert made.current == ["a"]
        away.clear()
        until(lambda: made.problem() is None)
        assert made.current == ["b"]
    finally:
        made.stop()


def test_a_file_that_vanishes_is_reported_until_it_is_back(path: Path, file: RoutesFile[list[str]]) -> None:
    path.unlink()
    until(lambda: "No such file" in (file.problem() or ""))
    assert file.current == ["a"]
    path.write_text(text("a"))
    until(lambda: file.problem() is None)


def test_another_folder_in_the_place_of_its_own_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / "routes"
    folder.mkdir()
    (folder / "routes.yaml").write_text(text("a"))
    file = RoutesFile(folder / "routes.yaml", (), names)
    file.start()
    try:
        folder.rename(tmp_path / "away")
        until(lambda: "No such file" in (file.problem() or ""))
        assert file.current == ["a"]
        folder.mkdir()
        for name in ("b", "c"):
            (folder / "routes.yaml").write_text(text(name))
            until(partial(is_current, file, name))
        assert file.problem() is None
    finally:
        file.stop()


def test_a_wrong_one_at_the_start_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    with pytest.raises(StopServiceError, match="No such file"):
        RoutesFile(path, (), names).start()
    path.write_text("version: 1\nroutes: 3\n")
    with pytest.raises(StopServiceError, match=r"routes\.yaml:2: routes: must be a list, is") as caught:
        RoutesFile(path, (), names).start()
    assert caught.value.code == Exit.USAGE
