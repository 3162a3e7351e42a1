"""Which rights a service needs on Kafka, and which of them its user does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from enrich.diagnosis.connect import RefusedConnectionError, addresses, connect
from enrich.diagnosis.protocol import NO_ERROR, Broker, Channel, Described
from enrich.diagnosis.sasl import with_token
from enrich.runtime.token_endpoint import TokenError

_READ, _WRITE, _DESCRIBE = 3, 4, 8
"""Numbers of Kafka's AclOperation, which are the bits of the operations that a user may perform."""
_NAMES: Final = {_READ: "READ", _WRITE: "WRITE", _DESCRIBE: "DESCRIBE"}
_TOPIC_REFUSED, _GROUP_REFUSED, _TRANSACTION_REFUSED = 29, 30, 53
_NO_COORDINATOR: Final = {14: "COORDINATOR_LOAD_IN_PROGRESS", 15: "COORDINATOR_NOT_AVAILABLE", 16: "NOT_COORDINATOR"}
"""Kafka's errors while no broker answers for a group or a transactional id, which pass by themselves at a start."""
_NOT_SAID: Final = 1 << 31
"""Kafka's value for operations that a broker does not report."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a service does with which topics and groups."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    groups: frozenset[str] = field(default=frozenset())
    transactions: frozenset[str] = field(default=frozenset())
    """Prefixes of transactional ids."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason for which Kafka refuses the service, or a part of it."""

    text: str
    about: str = ""
    """The topic, the group or the prefix of transactional ids that it is about; empty: it is about everything."""
    passes: bool = False
    """Whether it passes by itself while Kafka starts."""


def causes(connection: Mapping[str, str], needs: Needs, *, other_brokers: bool = True) -> list[Cause]:
    """Return every reason for which Kafka refuses the service; an empty list if it does not.

    ``other_brokers``: whether brokers that are no bootstrap servers are looked at, too, one after the other."""
    try:
        connection = with_token(connection)
    except TokenError as error:
        return [Cause(str(error))]
    refused = []
    for address in addresses(connection["bootstrap.servers"]):
        try:
            channel = connect(connection, address)
        except RefusedConnectionError as error:
            refused.append(Cause(str(error)))
            continue
        try:
            return _behind(channel, connection, needs, other_brokers=other_brokers)
        except OSError as error:
            refused.append(Cause(f"{address[0]}:{address[1]} does not go on answering: {error}"))
        finally:
            channel.close()
    return refused


def _behind(channel: Channel, connection: Mapping[str, str], needs: Needs, *, other_brokers: bool) -> list[Cause]:
    """Look at what is behind a bootstrap server that answers: the other brokers, and the rights."""
    brokers, topics = channel.metadata(sorted(needs.reads | needs.writes))
    user = user_of(connection)
    found = [Cause(text) for text in _unreachable(connection, brokers)] if other_brokers else []
    for name, described in sorted(topics.items()):
        found += [Cause(text, name) for text in _topic(name, described, needs, user)]
    for group in sorted(needs.groups):
        found += _group(channel, connection, group, user)
    for prefix in sorted(needs.transactions):
        error, _ = channel.find_coordinator(f"{prefix}diagnosis", transaction=True)
        if error == _TRANSACTION_REFUSED:
            found.append(Cause(missing_right("WRITE", "transactional id", f"{prefix}*", user), prefix))
        elif error in _NO_COORDINATOR:
            found.append(_no_coordinator(error, "transactional ids", prefix))
    return found


def _unreachable(connection: Mapping[str, str], brokers: list[Broker]) -> Iterator[str]:
    given = addresses(connection["bootstrap.servers"])
    for broker in brokers:
        if (broker.host, broker.port) in given:
            continue
        try:
            connect(connection, (broker.host, broker.port)).close()
        except RefusedConnectionError as error:
            yield f"broker {broker.number} advertises an address that cannot be used (advertised.listeners): {error}"


def _topic(name: str, described: Described, needs: Needs, user: str) -> Iterator[str]:
    expected = ([_READ] if name in needs.reads else []) + ([_WRITE] if name in needs.writes else [])
    if described.error == _TOPIC_REFUSED:
        yield missing_right(" and ".join(_NAMES[one] for one in expected), "topic", name, user)
    elif described.error == NO_ERROR and described.operations != _NOT_SAID:
        missing = [_NAMES[one] for one in expected if not described.operations >> one & 1]
        if missing:
            yield missing_right(" and ".join(missing), "topic", name, user)


def _group(channel: Channel, connection: Mapping[str, str], group: str, user: str) -> Iterator[Cause]:
    error, coordinator = channel.find_coordinator(group)
    if error == _GROUP_REFUSED:
        yield Cause(missing_right("READ", "group", group, user), group)
    if error in _NO_COORDINATOR:
        yield _no_coordinator(error, "group", group)
    if error != NO_ERROR:
        return
    try:
        other = connect(connection, (coordinator.host, coordinator.port))
    except RefusedConnectionError as refused:
        yield Cause(f"the coordinator of the group {group} cannot be used: {refused}", group)
        return
    try:
        described = other.describe_group(group)
    finally:
        other.close()
    if described.error in _NO_COORDINATOR:
        yield _no_coordinator(described.error, "group", group)
    refused_by_code = described.error == _GROUP_REFUSED
    said = described.error == NO_ERROR and described.operations != _NOT_SAID
    if refused_by_code or (said and not described.operations >> _READ & 1):
        yield Cause(missing_right("READ", "group", group, user), group)


def _no_coordinator(error: int, kind: str, name: str) -> Cause:
    topic = {"group": "__consumer_offsets", "transactional ids": "__transaction_state"}[kind]
    return Cause(
        f"no broker answers for the {kind} {name} ({_NO_COORDINATOR[error]}): this passes while Kafka starts; if it "
        f"stays, Kafka's topic {topic} has no leader, or cannot be made: does its replication factor need more brokers "
        "than there are?",
        name,
        passes=True,
    )


def user_of(connection: Mapping[str, str]) -> str:
    """Return Kafka's name for the user of librdkafka's settings, or a description if only the broker knows it."""
    if connection.get("security.protocol", "plaintext").startswith("sasl_"):
        return f"User:{connection.get('sasl.username', '')}" if connection.get("sasl.username") else "the token's user"
    return "the client certificate's subject" if "ssl.certificate.location" in connection else "User:ANONYMOUS"


def missing_right(operations: str, kind: str, name: str, user: str) -> str:
    """Say which right a user does not have, and by which command somebody gives it."""
    option = {"topic": "--topic", "group": "--group", "transactional id": "--transactional-id"}[kind]
    flags = " ".join(f"--operation {one}" for one in operations.split(" and "))
    pattern = " --resource-pattern-type prefixed" if name.endswith("*") else ""
    principal = f"'{user}'" if user.startswith("User:") else "PRINCIPAL"
    return (
        f"{user} has no right {operations} on the {kind} {name}: kafka-acls --add --allow-principal {principal} "
        f"{flags} {option} {name.removesuffix('*')}{pattern}"
    )
