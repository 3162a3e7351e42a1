"""``make bench-watch``: how long the watch takes, what it holds, beside the official client's informer and nobody.

The large sizes come from a server of canned bytes that speaks the real protocol, for a real one takes minutes to be
filled; 1,000 and 10,000 pods are listed from a real kube-apiserver as well, where it is built. Each measurement is a
process of its own. A table on the terminal, and JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from tests.bench_watch.readers import READERS
from tests.bench_watch.server import CannedServer, make_pod

_ROOT: Final = Path(__file__).parents[2]
_AIMS: Final = {"sync_s": 3.0, "memory_mb": 250.0, "event_ms_p99": 5.0}
"""At 100,000 pods, from a local server."""
_COLUMNS: Final = (
    ("server", "server"), ("what", "reader"), ("pods", "pods"), ("sync_s", "in sync s"), ("sync_cpu_s", "CPU s"),
    ("memory_mb", "MB"), ("event_ms_p50", "event ms p50"), ("event_ms_p99", "p99"), ("list_mb", "list MB"),
    ("standing_cpu_percent", "CPU % standing"), ("churn_cpu_percent", "at 100/s"), ("churn_bytes_per_s", "bytes/s"),
)  # fmt: skip


def _measure(server: str, what: str, where: str, pods: int, rate: int, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench_watch.worker", what, where, str(pods), str(rate), str(seconds)],
        cwd=_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise click.ClickException(f"{what} at {pods} pods: {done.stderr[-2000:]}")
    row = {"server": server, **json.loads(done.stdout)}
    click.echo(f"{server}: {done.stdout.strip()}", err=True)
    return row


def _canned(pods: int, most_informer: int, rate: int, seconds: float) -> list[dict[str, Any]]:
    server = CannedServer(pods)
    try:
        readers = ["nobody", "ours", *(["informer"] if pods <= most_informer else [])]
        return [_measure("canned", what, str(server.port), pods, rate, seconds) for what in readers]
    finally:
        server.close()


def _real(sizes: list[int]) -> list[dict[str, Any]]:
    """Against kube-apiserver and etcd, filled by its own API."""
    from tests.cluster.apiserver import ApiServer
    from tests.cluster.conftest import _PROGRAM

    built = subprocess.run([_PROGRAM, "--if-built"], capture_output=True, text=True, check=False)
    if built.returncode:
        click.echo("There is no kube-apiserver here: its rows are left out.")
        return []
    binaries = Path(built.stdout.strip())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        server = ApiServer(binaries, Path(folder) / "api")
        try:
            server.start()
            filled = 0
            for pods in sizes:
                _fill(server, filled, pods)
                filled = pods
                config = str(server.kubeconfig("admin"))
                rows += [_measure("kube-apiserver", what, config, pods, 0, 0) for what in READERS]
        finally:
            server.close()
    return rows


def _fill(server: Any, first: int, end: int) -> None:
    from tests.cluster.apiserver import Caller

    for team in {make_pod(number)["metadata"]["namespace"] for number in range(first, end)}:
        with contextlib.suppress(OSError):  # there already
            server.create("/api/v1/namespaces", {"metadata": {"name": team}})

    def create(part: int) -> None:
        caller = Caller(server)
        for number in range(first + part, end, 4):
            pod = make_pod(number)
            for field in ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generateName"):
                del pod["metadata"][field]
            caller.create(f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods", pod)
        caller.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, range(4)))


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="The watch of pods")
    for _, title in _COLUMNS:
        table.add_column(title, justify="right")
    for row in rows:
        cells = [row.get(name, "") for name, _ in _COLUMNS]
        table.add_row(*(f"{cell:,.1f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell
                        for cell in cells))  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes only, no real API server: does it work at all.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(*, quick: bool, path: Path | None) -> None:
    """Measure the watch."""
    sizes, real, seconds = ([100, 1000], [], 1.0) if quick else ([1000, 10_000, 100_000], [1000, 10_000], 10.0)
    rows = [row for pods in sizes for row in _canned(pods, 10_000, 100, seconds)]
    rows += _real(real) if real else []
    _show(rows)
    load = os.getloadavg()[0]
    if not quick:
        nobody, largest = (next(row for row in rows if (row["what"], row["pods"]) == (what, sizes[-1]))
                           for what in ("nobody", "ours"))  # fmt: skip
        for name, aim in _AIMS.items():
            click.echo(f"{name} at {sizes[-1]:,} pods: {largest[name]:.1f}, aim {aim:g}; nobody's {nobody[name]:.1f}")
        click.echo("The informer is not measured at 100,000 pods: by its growth it would take minutes and 6 GB.")
    if load > 1:
        click.echo(f"The machine was busy (load {load:.1f}): compare rows of this run with each other only.")
    result = {"load": load, "aims": _AIMS, "rows": rows}
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    elif not sys.stdout.isatty():
        click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
