"""The options of commands that say which Kafka and which cluster to read, and the settings that they mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from enrich.runtime.settings import load
from streams.kafka.connection import Connection, checked
from streams.settings import EVERY_CLUSTER, Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPTIONS: Final = (
    click.option("--kafka", help="Kafka bootstrap servers. [WEIR_KAFKA, else 127.0.0.1:9092]"),
    click.option("--topic-prefix", "prefix", help="Prefix of the topics. [WEIR_TOPIC_PREFIX, else kubeweir]"),
)
cluster_option: Final = click.option(
    "--cluster", envvar="WEIR_CLUSTER", help="Cluster, where several share the topics. [WEIR_CLUSTER]"
)


def kafka_options(command: _Command) -> _Command:
    """Give a command the options ``--kafka`` and ``--topic-prefix``, whose values :func:`read_settings` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def environment_with(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the environment, in which an option that is given replaces its variable."""
    return {**os.environ, **{name: text for name, text in given.items() if text}}


def read_settings(kafka: str | None, prefix: str | None) -> tuple[Settings, Connection]:
    """Return the settings, in which an option that is given replaces its variable, and the connection to Kafka.

    Raises :class:`enrich.runtime.settings.SettingsError`."""
    settings = load(Settings, environment_with({"WEIR_KAFKA": kafka, "WEIR_TOPIC_PREFIX": prefix}))
    return settings, checked(settings.connection())


def chosen_cluster(cluster: str | None) -> str:
    """Return the only cluster that a command reads; empty if it reads all clusters, as ``*`` means."""
    return "" if cluster is None or cluster == EVERY_CLUSTER else cluster
