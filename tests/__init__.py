"""The tests, and programs that share their code. They import modules of deploy/local, which is not a package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deploy/local"))
