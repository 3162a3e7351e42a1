"""Templates for labels and annotations: ``{{ field }}`` is replaced by the field's text.

Nothing else is supported: a template cannot call functions, read attributes or loop, because rule files may come from
people who must not run code in the worker.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

_PLACEHOLDER: Final = re.compile(r"\{\{\s*([A-Za-z0-9_./-]+)\s*\}\}")


def placeholders(text: str) -> list[str]:
    """Return the fields that a template names."""
    return _PLACEHOLDER.findall(text)


def mistakes(text: str, known: Collection[str]) -> list[str]:
    """Return a message for each mistake in a template that may name the ``known`` fields."""
    found = [
        f"{name!r} cannot be used here; the fields are {', '.join(known)}"
        for name in placeholders(text)
        if name not in known
    ]
    rest = _PLACEHOLDER.sub("", text)
    if "{{" in rest or "}}" in rest:
        found.append("the braces do not form a {{ field }}")
    return found


def render(text: str, values: Mapping[str, str]) -> str:
    """Replace each placeholder by its value. Braces inside a value are not expanded again."""
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder[1]], text)
