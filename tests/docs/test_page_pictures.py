"""The README's pictures of the page: text that git compares, and of the page as it is."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from streams.web.views import VIEWS

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", ["live", "map"])
def test_a_picture_is_small_text_and_shows_the_tabs_of_the_page(name: str) -> None:
    file = ROOT / f"docs/page-{name}.svg"
    assert f"](docs/{file.name})" in (ROOT / "README.md").read_text()
    assert file.stat().st_size < 100 << 10
    tree = ElementTree.parse(file)  # noqa: S314 - our own
    tags = {one.tag.removeprefix(SVG) for one in tree.iter()}
    assert tags <= {"svg", "g", "path", "rect", "circle", "text"}, "no picture in the picture, and no script"
    attributes = {name for one in tree.iter() for name in one.attrib}
    assert not [one for one in attributes if one.startswith("on") or "href" in one], "nothing from elsewhere"
    assert "url(" not in file.read_text()
    texts = [one.text for one in tree.iter(f"{SVG}text")]
    assert [one for one in texts if one in {view.title for view in VIEWS}][: len(VIEWS)] == [
        view.title for view in VIEWS
    ], "make pictures draws it anew"
    assert len(texts) > 20
    if name == "map":
        assert {"denied", "audited", "allowed", "postgres"} <= set(texts)
