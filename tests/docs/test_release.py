"""One version, everywhere that it stands; the changelog knows it."""

from __future__ import annotations

import re
import tomllib

from tests.docs.pages import ROOT, page

VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_image_and_the_manifests_have_the_projects_version() -> None:
    for name, pattern in (
        ("deploy/image/Dockerfile", r"ARG VERSION=(\S+)"),
        ("deploy/kubernetes/kustomization.yaml", r"newTag: (\S+)"),
        ("deploy/kubernetes/detach/kustomization.yaml", r"newTag: (\S+)"),
    ):
        assert re.findall(pattern, (ROOT / name).read_text()) == [VERSION], name


def test_the_changelog_has_the_version_released() -> None:
    released = re.findall(r"(?m)^## \[([0-9.]+)\] - ([0-9]{4}-[0-9]{2}-[0-9]{2})$", page("CHANGELOG.md").text)
    assert VERSION in {version for version, _ in released}
    assert [version for version, _ in released] == sorted(
        (version for version, _ in released), key=lambda text: tuple(map(int, text.split("."))), reverse=True
    )
