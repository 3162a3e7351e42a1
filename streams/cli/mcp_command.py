"""`weir mcp`: answer the questions of an assistant."""

from __future__ import annotations

import importlib.util
from typing import Final

import click

from enrich.runtime.settings import SettingsError
from streams.cli.kafka_options import cluster_option, environment_with, kafka_options, read_settings
from streams.cli.number import Number

_SECONDS: Final = 60.0


@click.command()
@click.option("--timeout", type=Number(1, 3600), default=_SECONDS, show_default=True,
              help="Seconds that an answer may take.")  # fmt: skip
@cluster_option
@kafka_options
def mcp(timeout: float, cluster: str | None, kafka: str | None, prefix: str | None) -> None:
    """Serve observe, explain, backtest, policies and status as read-only tools of the Model Context Protocol, on
    standard input and output.

    An assistant starts this command, and asks it why a pod is denied. docs/mcp.md says how to configure that, and what
    each tool answers. It reads Kafka and the API server with your rights, as the commands do, and writes nothing.

    \b
    Exit 0: standard input has ended, or SIGTERM has arrived. 2: the command is wrong, or the package mcp is missing.
    """
    if importlib.util.find_spec("mcp") is None:
        raise click.UsageError(
            "weir mcp needs the package mcp: pip install '.[mcp]' in a clone, or "
            "'kubeweir-VERSION-py3-none-any.whl[mcp]'"
        )
    try:
        read_settings(kafka, prefix)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    # These import the SDK, an extra that takes a while.
    from streams.cli.mcp.calling import Limits  # noqa: PLC0415
    from streams.cli.mcp.server import serve  # noqa: PLC0415

    given = {"WEIR_KAFKA": kafka, "WEIR_TOPIC_PREFIX": prefix, "WEIR_CLUSTER": cluster}
    serve(Limits(environment_with(given), timeout))
