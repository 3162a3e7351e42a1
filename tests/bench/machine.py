"""Describe the machine and the software versions: figures cannot be compared without them."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from confluent_kafka import libversion

_POM = Path(__file__).parents[2] / "deploy" / "local" / "kafka-pom.xml"


def describe(folder: Path) -> dict[str, Any]:
    """Return processor, kernel and versions by name. ``folder`` is that of Kafka's log and the spool."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "kernel": platform.release(),
        "file_system": _output_of("stat", "-f", "-c", "%T", str(folder)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "kafka": _kafka(),
        "java": _output_of("java", "-version").split("\n")[0],
        "librdkafka": libversion()[0],
        **{name: version(name) for name in ("confluent-kafka", "faust-streaming", "aiokafka", "numpy", "orjson")},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _kafka() -> str:
    return _POM.read_text().partition("<artifactId>kafka_2.13</artifactId>")[2].split("<version>")[1].split("<")[0]


def _output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip()
