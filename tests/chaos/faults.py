"""The faults. Each is a generator: it makes the fault and yields what it is, in words; then it mends it.

The faults of a lane follow one another, those of the two lanes overlap. What a fault does depends on the random numbers
that it is given and on nothing else, so that a seed repeats the sequence.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from confluent_kafka.admin import AclBinding, AclOperation, ResourceType

from streams.main import ROLES
from tests.chaos.ground import PREFIX, Ground, persistently
from tests.kafka.brokers import NUMBERS
from tests.kafka.mounted_users import MountedUsers

Lane = Literal["brokers", "services"]
Function = Callable[[Ground, random.Random], Iterator[str]]


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    lane: Lane
    make: Function


FAULTS: Final[list[Fault]] = []


def fault(lane: Lane) -> Callable[[Function], Function]:
    """Add a function to the list."""

    def add(function: Function) -> Function:
        FAULTS.append(Fault(function.__name__, lane, function))
        return function

    return add


# --- brokers


@fault("brokers")
def broker_ended(ground: Ground, chance: random.Random) -> Iterator[str]:
    """One broker ends, at once or in order, and comes back."""
    number, how = chance.choice(NUMBERS), chance.choice((signal.SIGKILL, signal.SIGTERM))
    ground.brokers.end(number, how)
    yield f"broker {number} ended by {how.name}"
    ground.brokers.start(number)


@fault("brokers")
def broker_frozen(ground: Ground, chance: random.Random) -> Iterator[str]:
    """One broker does nothing, and its connections stay open."""
    number = chance.choice(NUMBERS)
    ground.brokers.freeze(number)
    yield f"broker {number} frozen"
    ground.brokers.thaw()


@fault("brokers")
def all_brokers_away(ground: Ground, _chance: random.Random) -> Iterator[str]:
    """All brokers are killed at once, and come back."""
    for number in NUMBERS:
        ground.brokers.end(number)
    yield "all brokers away"
    ground.brokers.start(*NUMBERS)


@fault("brokers")
def all_brokers_frozen(ground: Ground, _chance: random.Random) -> Iterator[str]:
    """All brokers do nothing."""
    ground.brokers.freeze(*NUMBERS)
    yield "all brokers frozen"
    ground.brokers.thaw()


@fault("brokers")
def broker_left(ground: Ground, chance: random.Random) -> Iterator[str]:
    """All partitions leave a broker, which then ends; later it gets them back."""
    number = chance.choice(NUMBERS)
    others = [one for one in NUMBERS if one != number]
    chance.shuffle(others)
    _move(ground, others)
    ground.brokers.end(number)
    yield f"all partitions moved to brokers {others}, broker {number} gone"
    ground.brokers.start(number)
    ground.brokers.wait_until_complete()
    _move(ground, [number, *others])


def _move(ground: Ground, numbers: list[int]) -> None:
    """Move all partitions, and wait until they are there."""
    found = ground.brokers.wait_until_complete()
    moved = {topic: list(partitions) for topic, partitions in found.items()}
    persistently(lambda: ground.brokers.move(moved, numbers))

    def check() -> None:
        now = ground.brokers.wait_until_complete()
        assert all(set(now[topic][one]) == set(numbers) for topic in moved for one in moved[topic])

    persistently(check)


# --- services


@fault("services")
def role_killed(ground: Ground, chance: random.Random) -> Iterator[str]:
    """One role is killed; its supervisor starts it again."""
    role = chance.choice(ROLES)
    ground.workers.send(role, signal.SIGKILL)
    yield f"{role} killed"


@fault("services")
def role_frozen(ground: Ground, chance: random.Random) -> Iterator[str]:
    """One role does nothing for a while, and then goes on where it was."""
    role = chance.choice(ROLES)
    ground.workers.send(role, signal.SIGSTOP)
    yield f"{role} frozen"
    ground.workers.send(role, signal.SIGCONT)


@fault("services")
def all_roles_killed(ground: Ground, _chance: random.Random) -> Iterator[str]:
    """The whole service is killed and started again."""
    ground.workers.kill_all()
    yield "all roles killed"
    ground.workers.start_again()


@fault("services")
def second_enricher(ground: Ground, chance: random.Random) -> Iterator[str]:
    """Another enricher takes some of the partitions, and is gone again."""
    how = chance.choice((signal.SIGKILL, signal.SIGTERM))
    ground.workers.start_second()
    yield f"a second enricher, later ended by {how.name}"
    ground.workers.end_second(how)


_RIGHTS: Final = (
    ("worker", ResourceType.TOPIC, "verdicts.raw", AclOperation.READ),
    ("worker", ResourceType.TOPIC, "flows", AclOperation.WRITE),
    ("worker", ResourceType.TOPIC, "flows", AclOperation.READ),
    ("worker", ResourceType.TOPIC, "alerts", AclOperation.WRITE),
    ("worker", ResourceType.GROUP, "c1", AclOperation.READ),
    ("worker", ResourceType.TRANSACTIONAL_ID, "c1", AclOperation.WRITE),
    ("probe", ResourceType.TOPIC, "verdicts.raw", AclOperation.WRITE),
    ("probe", ResourceType.TOPIC, "endpoints", AclOperation.WRITE),
)


@fault("services")
def right_taken(ground: Ground, chance: random.Random) -> Iterator[str]:
    """A right is taken from the roles or the probes, and given back."""
    who, kind, name, operation = chance.choice(_RIGHTS)
    user = _principal(ground.worker_user if who == "worker" else ground.probe_user)
    taken: list[AclBinding] = []
    persistently(lambda: taken.extend(ground.guarded.deny(user, kind, f"{PREFIX}.{name}", operation)))
    yield f"the {who}s' right to {operation.name} {kind.name} {name} taken"
    ground.revoke(list(dict.fromkeys(taken)))


def _principal(users: MountedUsers) -> str:
    return str(users.acls[0].principal).removeprefix("User:")


@fault("services")
def certificate_renewed(ground: Ground, chance: random.Random) -> Iterator[str]:
    """The certificate of the roles or the probes is renewed on disk, and later the old one's rights are taken."""
    who = chance.choice(("worker", "probe"))
    if who == "worker":
        rights = persistently(ground.worker_user.add)
    else:
        rights = persistently(ground.probe_user.add)
        ground.fleet.renew(ground.probe_connection())
    yield f"the {who}s' certificate renewed"
    ground.revoke(rights)


@fault("services")
def hostile_records(ground: Ground, chance: random.Random) -> Iterator[str]:
    """Somebody writes malformed records to one topic."""
    yield ground.hostile.send(chance)


@fault("services")
def api_silent(ground: Ground, _chance: random.Random) -> Iterator[str]:
    """The connections to the API server stay open, and nothing comes through them."""
    ground.api.silent.set()
    yield "API server silent"
    ground.api.silent.clear()


@fault("services")
def api_away(ground: Ground, chance: random.Random) -> Iterator[str]:
    """The API server is away, and may have forgotten the versions that watches would go on from."""
    forgets = chance.random() < 0.5
    ground.api.away.set()
    yield f"API server away{', and forgets old versions' if forgets else ''}"
    if forgets:
        ground.api.forget()
    ground.api.away.clear()
