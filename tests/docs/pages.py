"""The project's Markdown files as values: headings, anchors, links, code spans, tables and fenced blocks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

_FENCE: Final = re.compile(r"^( *)(`{3,})(\w*)[^\n]*\n(.*?)^\1\2\s*$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^(#{1,6}) +(.+?)\s*$", re.MULTILINE)
_LINK: Final = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """The path from the repository's root."""
        return str(self.path.relative_to(ROOT))

    @cached_property
    def prose(self) -> str:
        """The text without fenced and indented code blocks."""
        return re.sub(r"(?m)(?:\A|(?<=\n\n))(?: {4}[^\n]*\n)+", "\n", _FENCE.sub("", self.text))

    @cached_property
    def anchors(self) -> frozenset[str]:
        """The anchors of the headings, as GitHub makes them."""
        found: set[str] = set()
        for _, title in _HEADING.findall(self.prose):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
            anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            number = 1
            name = anchor
            while name in found:
                name = f"{anchor}-{number}"
                number += 1
            found.add(name)
        return frozenset(found)

    @cached_property
    def links(self) -> tuple[str, ...]:
        """The targets of all links and pictures."""
        return tuple(_LINK.findall(_CODE.sub("", self.prose)))

    @cached_property
    def code(self) -> tuple[str, ...]:
        """What stands in backticks in the prose."""
        return tuple(_CODE.findall(self.prose))

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of one language."""
        return [text for _, _, name, text in _FENCE.findall(self.text) if name == language]

    def sections(self, level: int) -> dict[str, str]:
        """Heading to the text below it, for the headings of one level."""
        parts = re.split(rf"(?m)^{'#' * level} +(.+?)\s*$", self.text)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    def rows(self, heading: str) -> Iterator[list[str]]:
        """The cells of each row of the tables that have ``heading`` as the first column's name."""
        inside = False
        for line in self.text.splitlines():
            if not line.startswith("|"):
                inside = False
                continue
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
            if cells[0] == heading:
                inside = True
            elif inside and not set(cells[0]) <= set("-: "):
                yield cells


@cache
def page(name: str) -> Page:
    """The page at a path from the repository's root."""
    return Page(ROOT / name, (ROOT / name).read_text())


@cache
def pages() -> tuple[Page, ...]:
    """Every Markdown file of the project. Without git (an unpacked archive), those of the known folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = listed.stdout.split() if listed.returncode == 0 else []
    if not names:
        found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
        names = [str(path.relative_to(ROOT)) for path in found]
    return tuple(page(name) for name in sorted(set(names)) if (ROOT / name).is_file())


def unquoted(cell: str) -> str:
    """A table's cell without the backticks around it."""
    return cell.strip().strip("`")
