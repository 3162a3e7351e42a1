"""Every link, anchor, path, setting and command that a document names exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.generate import settings_variables
from tests.docs.pages import ROOT, Page, page, pages

_ROOMS = ("probe", "enrich", "streams", "bpf", "deploy", "tests", "docs")
_PATH = re.compile(rf"^(?:{'|'.join(_ROOMS)})/[\w./<>*-]*$|^[A-Za-z]+\.(?:md|toml|lock)$|^Makefile$")
_SETTING = re.compile(r"\bWEIR_[A-Z0-9_]+\b")
_OLD_NAMES = {"CHANGELOG.md", "docs/glossary.md"}
"""Pages that name settings and files which are no more."""
_INTERNAL = {"WEIR_SUPERVISED", "WEIR_NAMESPACE", "WEIR_CACHE"}
"""Variables of programs and manifests that are no settings of a service."""


@cache
def _targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text()))


def _has_anchor(path: Path, anchor: str) -> bool:
    return not anchor or path.suffix != ".md" or anchor in page(str(path.relative_to(ROOT))).anchors


def _is_there(one: Page, text: str) -> bool:
    """From the root, or from the page's folder; ``*`` stands for any name."""
    return any(True for _ in ROOT.glob(text.rstrip("/"))) or (one.path.parent / text).exists()


@pytest.mark.parametrize("one", pages(), ids=lambda one: one.name)
def test_every_link_leads_somewhere(one: Page) -> None:
    wrong = []
    for link in one.links:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (one.path.parent / target).resolve() if target else one.path
        known = path.exists() and path.is_relative_to(ROOT)
        if not known or not _has_anchor(path, anchor):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("one", [one for one in pages() if one.name not in _OLD_NAMES], ids=lambda one: one.name)
def test_every_path_in_backticks_is_there(one: Page) -> None:
    named = {text.split()[0] for text in one.code if _PATH.match(text.split()[0])}
    wrong = sorted(text for text in named if "<" not in text and not _is_there(one, text))
    assert not wrong


@pytest.mark.parametrize("one", [one for one in pages() if one.name not in _OLD_NAMES], ids=lambda one: one.name)
def test_every_setting_that_is_named_exists(one: Page) -> None:
    assert set(_SETTING.findall(one.text)) - settings_variables() - _INTERNAL == set()


@pytest.mark.parametrize("one", pages(), ids=lambda one: one.name)
def test_every_make_target_that_is_named_exists(one: Page) -> None:
    named = {text.split()[1] for text in one.code if re.match(r"make [a-z]", text)}
    named |= set(re.findall(r"(?m)^ {4}make ([a-z][a-z0-9-]*)", one.text))
    assert named - _targets() == set()


def test_every_component_can_be_added_as_it_says() -> None:
    folder = ROOT / "deploy/kubernetes"
    named = {path for one in pages() for path in re.findall(r"components: \[(components/[\w-]+)\]", one.text)}
    for path in sorted(folder.glob("components/*/kustomization.yaml")):
        comment = " ".join(path.read_text().partition("apiVersion:")[0].replace("\n#", "").split())
        line = f"`components: [components/{path.parent.name}]`"
        # kustomize looks for a component beside the file that names it.
        assert re.search(rf"{re.escape(line)} (?:in|to) deploy/kubernetes/kustomization\.yaml", comment), path
    assert {path for path in named if not (folder / path).is_dir()} == set()


def test_every_page_of_docs_is_linked_from_another() -> None:
    linked = set()
    for one in pages():
        for link in one.links:
            target = (one.path.parent / link.partition("#")[0]).resolve()
            linked |= {target, target / "README.md"} - {one.path}
    lost = [one.name for one in pages() if one.name.startswith("docs/") and one.path not in linked]
    assert not lost


def test_no_page_is_long() -> None:
    # Two are generated, and a changelog grows with every release.
    exempt = {"docs/settings.md", "docs/metrics.md", "CHANGELOG.md"}
    long = {one.name: len(one.text.splitlines()) for one in pages() if one.name not in exempt}
    assert {name: lines for name, lines in long.items() if lines > 300} == {}
