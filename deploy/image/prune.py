"""Remove from the image's environment everything that the services do not need, and compile the rest.

The argument is a file with a requirement in each line (requirements.py). Development tools, packages' tests and pip are
removed.
"""

from __future__ import annotations

import compileall
import importlib.metadata
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

SITE = next(Path(path) for path in sys.path if path.startswith(sys.prefix) and path.endswith("site-packages"))


def add_needed(requirements: Iterable[str], found: set[str]) -> None:
    """Add the distributions that are required on this platform, and recursively what these require, to ``found``."""
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            add_needed(importlib.metadata.requires(name) or (), found)


def main() -> None:
    """Uninstall the distributions that kubeweir does not require, then delete tests and pip, then compile."""
    keep: set[str] = set()
    add_needed(Path(sys.argv[1]).read_text().splitlines(), keep)
    installed = {canonicalize_name(d.metadata["Name"]) for d in importlib.metadata.distributions(path=[str(SITE)])}
    removed = sorted(installed - keep)
    subprocess.run(
        [sys.executable, "-m", "pip", "uninstall", "-qy", *(set(removed) - {"pip", "setuptools"})], check=True
    )
    for folder in (*SITE.glob("pip*"), *SITE.glob("setuptools*"), *SITE.rglob("tests"), *SITE.rglob("__pycache__")):
        shutil.rmtree(folder, ignore_errors=True)
    # The services run on a read-only root file system: Python could not store what it compiles, and each start would
    # compile everything again.
    compileall.compile_dir(SITE, quiet=1, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    print(f"kept {len(keep)} distributions, removed {len(removed)}: {', '.join(removed)}")


main()
