"""Asks Kafka: each broker by its name, and the rights of the user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Final

from enrich.diagnosis.connect import RefusedConnectionError, addresses, connect
from enrich.diagnosis.protocol import Broker
from enrich.diagnosis.rights import Needs, causes, user_of
from enrich.diagnosis.sasl import with_token
from enrich.runtime.token_endpoint import TokenError
from enrich.runtime.work_thread import start_work
from enrich.wire.rights import PRINCIPALS, RIGHTS, Principal
from streams.cli.doctor.finding import Finding, ok, problem, warning
from streams.kafka.connection import Connection

_MAX_BROKERS: Final = 100
"""So many of the brokers that a bootstrap server advertises are asked: the server chooses how many there are."""
_PLACE: Final = "doctor"
"""Stands for the rest of a name of which a right has only the beginning. Nothing is called so."""
_Address = tuple[str, int]


def brokers(connection: Connection) -> Iterator[Finding]:
    """Connect to each bootstrap server, then to each other broker that one of them names."""
    try:
        connection = with_token(connection)
    except TokenError as error:
        yield problem("Kafka", str(error))
        return
    given = list(dict.fromkeys(addresses(connection["bootstrap.servers"])))
    advertised: list[Broker] = []
    for address, work in _looks(connection, given):
        try:
            found = work.result()
        except RefusedConnectionError as error:
            yield problem(_name(address), str(error))
        else:
            advertised = advertised or found
            yield ok(_name(address), f"answers {user_of(connection)}")
    others = {(one.host, one.port): one.number for one in advertised if (one.host, one.port) not in given}
    for address, work in _looks(connection, list(others)[:_MAX_BROKERS]):
        try:
            work.result()
        except RefusedConnectionError as error:
            why = f"broker {others[address]} advertises an address that cannot be used (advertised.listeners): {error}"
            yield problem(_name(address), why)
        else:
            yield ok(_name(address), f"broker {others[address]} answers {user_of(connection)}")
    if len(others) > _MAX_BROKERS:
        yield warning("Kafka", f"{len(others) - _MAX_BROKERS} more brokers were not asked")


def _looks(connection: Connection, asked: Sequence[_Address]) -> list[tuple[_Address, Future[list[Broker]]]]:
    def look(address: _Address) -> list[Broker]:
        channel = connect(connection, address)
        try:
            return channel.metadata([])[0]
        except OSError as error:
            raise RefusedConnectionError(f"{_name(address)} does not go on answering: {error}") from error
        finally:
            channel.close()

    return [(one, start_work(lambda one=one: look(one), "doctor-broker")) for one in asked]  # type: ignore[misc]


def _name(address: _Address) -> str:
    return f"Kafka {address[0]}:{address[1]}"


def rights(connection: Connection, principal: Principal, prefix: str, cluster: str) -> Iterator[Finding]:
    """Look for the rights that one of kubeweir's principals needs and this user does not have."""
    who = PRINCIPALS[principal]
    if principal == "workers" and not cluster:
        who += "; those named after the cluster were not looked for: give --cluster"
    # What hinders all of it is that no bootstrap server answers any more: each other broker has a line of its own.
    found = causes(connection, needs_of(principal, prefix, cluster), other_brokers=False)
    missing = [one for one in found if one.about]
    for cause in missing:
        yield (warning if cause.passes else problem)("rights", f"{cause.text}. It is for: {who}")
    if not found:
        yield ok("rights", f"{user_of(connection)} has every right of docs/kafka-acls.md on what is there, for: {who}")
    elif not missing:
        yield warning("rights", f"not known, because no broker can be used: {found[0].text}")


def needs_of(principal: Principal, prefix: str, cluster: str) -> Needs:
    """Return what a principal does on Kafka. Without a cluster, what is named after it is left out."""
    reads, writes, groups, transactions = set[str](), set[str](), set[str](), set[str]()
    for right in RIGHTS:
        name = right.full_name(prefix, cluster)
        if right.principal != principal or (not cluster and "CLUSTER" in right.name):
            continue
        if right.resource == "group":
            groups.add(f"{name}{_PLACE}" if right.prefixed else name)
        elif right.resource == "transactionalId":
            transactions.add(name)
        elif right.operation != "DescribeConfigs":
            (reads if right.operation == "Read" else writes).add(name)
    return Needs(frozenset(reads), frozenset(writes), frozenset(groups), frozenset(transactions))
