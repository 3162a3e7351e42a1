#!/usr/bin/env python3
"""Stores the loaded classes of a Kafka broker in the cache, so that later brokers start with half of the CPU.

Java calls this an archive for class data sharing. Java writes it when a broker ends that has done what most brokers of
the tests do: made a topic, taken a record, and served a consumer group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from brokers import CLASSES, Options, java, layout, prepare, start_brokers
from ports import free_port

_HOST = "127.0.0.1"
_END_S = 120
_USE = """
set -e
echo record | kcat -q -b "$1" -t classes -P
kcat -q -b "$1" -X auto.offset.reset=earliest -G classes -c 1 classes
"""


def main() -> int:
    if CLASSES.exists() and is_usable():
        return 0
    CLASSES.unlink(missing_ok=True)
    unfinished = CLASSES.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _use_a_broker(Path(folder), unfinished)
    if not unfinished.exists():
        sys.exit("kafka_classes: Java stored no classes")
    unfinished.rename(CLASSES)
    return 0


def is_usable() -> bool:
    """Return whether Java takes the stored classes: it was not upgraded since, and they are whole."""
    program, *options = java("-version")
    # With this option Java does not start without them.
    command = [program, "-Xshare:on", "-XX:+SuppressFatalErrorMessage", *options]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _use_a_broker(folder: Path, archive: Path) -> None:
    (broker,) = layout(folder, [free_port()])
    prepare(folder, [broker], Options())
    with broker.properties.open("a") as file:
        file.write("auto.create.topics.enable=true\n")
    os.environ["JDK_JAVA_OPTIONS"] = f"-XX:ArchiveClassesAtExit={archive}"
    start_brokers([broker], _HOST)
    pid = int((folder / "pid").read_text())
    try:
        use = ["bash", "-c", _USE, "bash", f"{_HOST}:{broker.port}"]
        subprocess.run(use, check=True, stdout=subprocess.DEVNULL, timeout=_END_S)
    finally:
        os.kill(pid, signal.SIGTERM)  # a broker that is killed stores nothing
        os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
