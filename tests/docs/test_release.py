"""One version, everywhere that it stands; the changelog knows it."""

from __future__ import annotations

import re
import tomllib

from deploy.release.tree import PLACES
from enrich.runtime.settings import described
from tests.docs.generate import SETTINGS
from tests.docs.pages import ROOT, page

VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_place_has_the_projects_version() -> None:
    for name, pattern in PLACES:
        assert re.findall(pattern, (ROOT / name).read_text()) == [VERSION], name


def test_the_changelog_has_the_version_released() -> None:
    released = re.findall(r"(?m)^## \[([0-9.]+)\] - ([0-9]{4}-[0-9]{2}-[0-9]{2})$", page("CHANGELOG.md").text)
    assert VERSION in {version for version, _ in released}
    assert [version for version, _ in released] == sorted(
        (version for version, _ in released), key=lambda text: tuple(map(int, text.split("."))), reverse=True
    )


def test_the_changelog_has_every_former_name_of_a_setting() -> None:
    former = {(old, one.variable) for cls in SETTINGS for one in described(cls) for old in one.formerly}
    listed = {(row[0].strip("`"), row[1].strip("`")) for row in page("CHANGELOG.md").rows("before")}
    assert former - listed == set()
