"""Texts with ``{{ field }}`` in them. A field is replaced by its text, and nothing else happens: no code at all."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

_GAP: Final = re.compile(r"\{\{\s*([A-Za-z0-9_./-]+)\s*\}\}")


def gaps(text: str) -> list[str]:
    """The fields that a template names."""
    return _GAP.findall(text)


def mistakes(text: str, known: Collection[str]) -> list[str]:
    """In words, what is wrong with a template; ``known``: the fields that it may name."""
    found = [f"there is no {name!r} here; there are {', '.join(known)}" for name in gaps(text) if name not in known]
    rest = _GAP.sub("", text)
    if "{{" in rest or "}}" in rest:
        found.append("braces that are no {{ field }}")
    return found


def render(text: str, values: Mapping[str, str]) -> str:
    """The text with its gaps filled. What a value holds is not looked at again."""
    return _GAP.sub(lambda gap: values[gap[1]], text)
