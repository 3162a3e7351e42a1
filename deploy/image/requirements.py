"""Print what the services in the image require, a line for each, from pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

EXTRAS = ("cel", "hubble", "otlp-grpc")
"""The extras whose packages the image has."""

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
optional = project["optional-dependencies"]
print("\n".join([*project["dependencies"], *(one for extra in EXTRAS for one in optional[extra])]))
