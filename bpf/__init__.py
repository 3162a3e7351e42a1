"""Where the kernel side lies on disk: paths and nothing else."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent
"""The folder of the C sources."""

POLICY_SOURCE = ROOT / "policy.c"
"""The programs and the maps that they use."""

HEADERS = ROOT / "headers"
"""The shim tree that stands in for kernel headers (bcc's BCC_KERNEL_SOURCE)."""
