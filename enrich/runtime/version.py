"""The version of kubeweir, for the three commands."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def version_text() -> str:
    """Return the version of the installed package, or a sentence if kubeweir runs from a source tree."""
    try:
        return version("kubeweir")
    except PackageNotFoundError:
        return "unknown (kubeweir runs from a source tree and is not installed)"
