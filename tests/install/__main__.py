"""``python -m tests.install``: see ``--help``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from enrich.runtime.process import Exit
from tests.cluster.whole.real import ROOT, Real, run
from tests.cluster.whole.started import is_running, started
from tests.install.run import Run
from tests.long_run import cannot_run, need, run_as_program

_BUILD: Final = ROOT / "deploy/image/build"


@click.command()
@click.option("--on", "kafka", metavar="HOST:PORT", help="Use and keep the local cluster that runs, with this Kafka."
              " It has the image, the apps client and stranger, and no kubeweir.")  # fmt: skip
def main(kafka: str | None) -> None:
    """Install kubeweir on a local cluster by the commands of README and docs, upgrade, roll back, uninstall.

    Each command is read from the pages and run in their order, in another namespace than theirs, and what the pages
    promise is checked. Exit codes: 0 all is as they say, 1 otherwise, 3 cannot run here.
    """
    if os.geteuid() != 0:
        cannot_run("install", "must run as root, to make a cluster")
    need("install", ("kcat", "java"))
    if not kafka and is_running():
        cannot_run("install", "a cluster is already running: remove it (make cluster-down), or give its Kafka by --on")
    built = subprocess.run([ROOT / "deploy/local/binaries", "helm"], stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        cannot_run("install", "Helm cannot be built, see above")
    helm, name = Path(built.stdout.strip()) / "helm", run(_BUILD, "--name").strip()
    with tempfile.TemporaryDirectory(prefix="weir-install-") as folder, there(Path(folder), kafka) as real:
        Run(real, helm, name).play()
    click.echo("all is as the pages say")
    sys.exit(Exit.OK)


@contextlib.contextmanager
def there(folder: Path, kafka: str | None) -> Iterator[Real]:
    """Give the cluster: a new one, or the one that runs."""
    if kafka:
        real = Real(folder)
        real.kafka = kafka
        yield real
        return
    with started(folder, run(_BUILD, timeout_s=3600).strip()) as real:
        yield real


run_as_program("install", main)
