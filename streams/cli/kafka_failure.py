"""Says why Kafka refuses a command, as ``/readyz`` of the services does, and ends it with 1."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NoReturn

import click

from enrich.diagnosis.rights import Needs, causes
from enrich.runtime.process import Exit
from streams.kafka.connection import NoTopicError, ReadError
from streams.kafka.reading import reader_group


def needs_to_read(*topics: str) -> Needs:
    """Return what a command needs that reads topics without a group."""
    return Needs(reads=frozenset(topics), groups=frozenset(map(reader_group, topics)))


def end(error: ReadError, connection: Mapping[str, str], needs: Needs) -> NoReturn:
    """Say why Kafka cannot be read or written, each cause on a line of its own, and exit."""
    say_why(error, connection, needs)
    sys.exit(Exit.UNEXPECTED)


def say_why(error: ReadError, connection: Mapping[str, str], needs: Needs) -> None:
    """Say why Kafka cannot be read or written, each cause on a line of its own."""
    click.echo(f"weir: {error}", err=True)
    for cause in () if isinstance(error, NoTopicError) else causes(connection, needs):
        if cause.text not in str(error):
            click.echo(f"weir: {cause.text}", err=True)
