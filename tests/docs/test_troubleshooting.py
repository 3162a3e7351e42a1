"""What ``docs/troubleshooting.md`` quotes from logs and from ``/readyz`` is what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.docs.pages import ROOT, page

PAGE = page("docs/troubleshooting.md")


@cache
def _texts() -> str:
    """Every string constant of the product's Python, also the parts of f-strings, one a line."""
    files = [file for room in ("probe", "enrich", "streams") for file in sorted((ROOT / room).rglob("*.py"))]
    found: list[str] = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(" ".join(node.value.split()))
    return "\n".join(found)


def _quotes() -> Iterator[str]:
    """Yield what stands between double quotes; one may go on in the next line."""
    prose = re.sub(r"`[^`\n]+`", "", PAGE.prose)
    yield from re.findall(r"\"([^\"]+)\"", " ".join(prose.split()))


def test_every_text_that_is_quoted_is_in_the_code() -> None:
    quotes = list(_quotes())
    assert len(quotes) > 20
    assert [quote for quote in quotes if quote not in _texts()] == []


def test_every_symptom_has_something_to_do() -> None:
    for title, text in PAGE.sections(2).items():
        if "**Symptom:**" in text:
            assert re.search(r"\*\*What to do:\*\*|what to do|\| reason \| meaning \|", text), title
