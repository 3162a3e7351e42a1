"""``make bench-watch``: how long the watch takes, what it holds, beside the official client's informer and nobody.

The large sizes come from a server of canned bytes that speaks the real protocol, for a real one takes gigabytes then;
1,000 and 10,000 pods are listed from a real kube-apiserver as well, where it is built, and there the way of a change
into the kernel's map is measured (:mod:`tests.bench_watch.kernel`). Each measurement is a process of its own. Tables on
the terminal, and JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
_KERNEL_AIM_MS: Final = 100.0
"""From the API's change to the kernel's map, the 99th of a hundred, at 10,000 pods and 1,000 policies."""
_KERNEL_COLUMNS: Final = (
    ("change", "change"), ("pods", "pods"), ("policies", "policies"), ("sent_ms_p50", "since sent, ms p50"),
    ("sent_ms_p99", "p99"), ("answered_ms_p50", "since answered p50"), ("answered_ms_p99", "p99"),
    ("nobody_ms_p50", "nobody's, since sent p50"), ("nobody_ms_p99", "p99"),
)  # fmt: skip
_COLUMNS: Final = (
    ("server", "server"), ("what", "reader"), ("pods", "pods"), ("sync_s", "in sync s"), ("sync_cpu_s", "CPU s"),
    ("memory_mb", "MB"), ("event_ms_p50", "event ms p50"), ("event_ms_p99", "p99"), ("list_mb", "list MB"),
    ("standing_cpu_percent", "CPU % standing"), ("churn_cpu_percent", "at 100/s"), ("churn_bytes_per_s", "bytes/s"),
)  # fmt: skip


_MOST_INFORMER: Final = 10_000


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
        readers = [what for what in READERS if what != "informer" or pods <= most_informer]
        return [_measure("canned", what, str(server.port), pods, rate, seconds) for what in readers]
    finally:
        server.close()


def _binaries() -> Path | None:
    """Where kube-apiserver and etcd are, if they are built."""
    program = _ROOT / "deploy/local/binaries"
    built = subprocess.run([program, "--if-built"], capture_output=True, text=True, check=False)
    return None if built.returncode else Path(built.stdout.strip())


def _real(binaries: Path, sizes: list[int], most_informer: int) -> list[dict[str, Any]]:
    """Against kube-apiserver and etcd."""
    from tests.cluster.apiserver import ApiServer

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
                readers = [what for what in READERS if what != "informer" or pods <= most_informer]
                rows += [_measure("kube-apiserver", what, config, pods, 0, 0) for what in readers]
        finally:
            server.close()
    return rows


def _fill(server: Any, first: int, end: int) -> None:
    server.load({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team}}
                for team in {make_pod(number)["metadata"]["namespace"] for number in range(first, end)})  # fmt: skip
    pods = [make_pod(number) for number in range(first, end)]
    for pod in pods:
        del pod["metadata"]["resourceVersion"]
    server.load(pods)
    server.wait_for_pods(end)


def _kernel(binaries: Path, pods: int, rounds: int) -> list[dict[str, Any]]:
    if os.geteuid() != 0:
        click.echo("The way to the kernel is left out: it needs root.")
        return []
    from tests.bench_watch.kernel import measure

    with tempfile.TemporaryDirectory() as folder:
        return measure(binaries, Path(folder), pods, rounds)


def _show(title: str, columns: Sequence[tuple[str, str]], rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for _, heading in columns:
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [row.get(name, "") for name, _ in columns]
        table.add_row(*(f"{cell:,.1f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell
                        for cell in cells))  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes only, no real API server: does it work at all.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures there too.")
@click.option("--real-most", default=10_000, help="The most pods on a real API server; 100,000 take it 4 GB.")
def main(*, quick: bool, path: Path | None, real_most: int) -> None:
    """Measure the watch."""
    sizes, seconds = ([100, 1000], 1.0) if quick else ([1000, 10_000, 100_000], 10.0)
    rows = [row for pods in sizes for row in _canned(pods, _MOST_INFORMER, 100, seconds)]
    binaries, kernel = None if quick else _binaries(), []
    if binaries:
        rows += _real(binaries, [pods for pods in sizes if pods <= real_most], _MOST_INFORMER)
        kernel = _kernel(binaries, 10_000, 200)
    elif not quick:
        click.echo("There is no kube-apiserver here: what needs it is left out.")
    _show("The watch of pods", _COLUMNS, rows)
    if kernel:
        _show("From a change at the API server to the kernel's map", _KERNEL_COLUMNS, kernel)
    load = os.getloadavg()[0]
    if not quick:
        nobody, largest = (next(row for row in rows if (row["what"], row["pods"]) == (what, sizes[-1]))
                           for what in ("nobody", "ours"))  # fmt: skip
        for name, aim in _AIMS.items():
            click.echo(f"{name} at {sizes[-1]:,} pods: {largest[name]:.1f}, aim {aim:g}; nobody's {nobody[name]:.1f}")
        for row in kernel:
            click.echo(f"{row['change']}: {row['sent_ms_p99']:.1f} ms to the kernel's map, aim {_KERNEL_AIM_MS:g}")
        click.echo("The informer is not measured at 100,000 pods: by its growth it would take minutes and 6 GB.")
    if load > 1:
        click.echo(f"The machine was busy (load {load:.1f}): compare rows of this run with each other only.")
    result = {"load": load, "aims": _AIMS, "rows": rows, "kernel": kernel}
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    elif not sys.stdout.isatty():
        click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
