"""The packages of PyPI that kubeweir needs, as ``requirements.lock`` pins them."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_BLOCK: Final = re.compile(r"^(\S+)==(\S+) \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Pinned:
    """One package: its name, its version, and the hashes of all files that PyPI has of it."""

    name: str
    version: str
    hashes: frozenset[str]
    text: str
    """Its lines in the lock file."""


def pinned(root: Path, extras: Iterable[str] = ()) -> list[Pinned]:
    """Return what kubeweir needs to run with these extras, without what only its development needs.

    The environment that this runs in must have what the lock file pins: it tells what needs what.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    found: dict[str, set[str]] = {}
    _add(
        [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])], found
    )
    every = [Pinned(name, version, frozenset(re.findall(r"sha256:(\w+)", hashes)), f"{name}=={version} \\\n{hashes}")
             for name, version, hashes in _BLOCK.findall((root / "requirements.lock").read_text())]  # fmt: skip
    chosen = [one for one in every if canonicalize_name(one.name) in found]
    missing = found.keys() - {canonicalize_name(one.name) for one in chosen}
    if missing:
        raise LookupError(f"requirements.lock does not pin {', '.join(sorted(missing))}")
    return chosen


def _add(requirements: Iterable[str], found: dict[str, set[str]], extras: Iterable[str] = ("",)) -> None:
    """Add what is required, by name, with the extras of it whose requirements are added as well."""
    for requirement in map(Requirement, requirements):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        new = (requirement.extras or {""}) - found.setdefault(name, set())
        if new:
            found[name] |= new
            _add(importlib.metadata.requires(name) or (), found, new)
