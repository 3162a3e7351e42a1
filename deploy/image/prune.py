"""Leaves in the environment only what the services run on, compiled: no tools of development, no tests, no pip."""

from __future__ import annotations

import compileall
import importlib.metadata
import py_compile
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
    # The services' root is read-only: without this, each start would compile everything again.
    compileall.compile_dir(SITE, quiet=1, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    print(f"kept {len(keep)} distributions, removed {len(gone)}: {', '.join(gone)}")


main()
