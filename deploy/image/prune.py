"""Leaves in the environment only what the services run on: no tools of development, no tests, no pip."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

SITE = next(Path(path) for path in sys.path if path.startswith(sys.prefix) and path.endswith("site-packages"))


def needed(name: str, found: set[str]) -> set[str]:
    """A distribution and all that it requires here."""
    name = canonicalize_name(name)
    if name in found:
        return found
    found.add(name)
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name, found)
    return found


def main() -> None:
    """Uninstall the rest; then what wheels carry that nobody runs."""
    keep = needed("kubeweir", set())
    here = {canonicalize_name(d.metadata["Name"]) for d in importlib.metadata.distributions(path=[str(SITE)])}
    gone = sorted(here - keep)
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "-qy", *(set(gone) - {"pip", "setuptools"})], check=True)
    for folder in (*SITE.glob("pip*"), *SITE.glob("setuptools*"), *SITE.rglob("tests"), *SITE.rglob("__pycache__")):
        shutil.rmtree(folder, ignore_errors=True)
    print(f"kept {len(keep)} distributions, removed {len(gone)}: {', '.join(gone)}")


main()
