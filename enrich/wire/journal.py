"""The journal: each version of each object that decides or names, as the topic ``<prefix>.journal`` keeps it.

THEORY OF OPERATION

1. An entry says that from ``seen_ns`` on an object was in a state, or was gone. The state of the cluster at a past time
   is what the last entry of each object up to that time says. So an object that never changes would fall out of the
   journal with its only entry; therefore the writer *repeats* a state that it wrote :data:`REPEAT_NS` ago. Whoever
   reads from ``T - REPEAT_NS`` on has every state as of ``T``.
2. A *Gap* says that for some time the journal was not written, or that the writer did not see the cluster. What
   happened in it is known only by its outcome: the entries right after it have every object that differs. An object
   with the same resource version before and after was not changed in between.
3. A *refused* entry says that from ``seen_ns`` on the object exists in a state that is outside the bounds of an entry.
   What it says is not known until its next entry; the earlier state is not true any more.
4. A *Heartbeat* says that everything seen up to ``seen_ns`` is in the journal, although nothing changed.

An example. Policy shop/db is made at 10:00, changed at 10:05, and the writer is down from 10:10 to 10:20; meanwhile
somebody deletes the policy. The journal has: NetworkPolicy shop/db at 10:00, the same with another state at 10:05, Gap
from 10:10 until 10:20, NetworkPolicy shop/db gone at 10:20.

The key of a record is ``CLUSTER/KIND/NAMESPACE/NAME``. The topic is not compacted.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from enrich.wire.bounds import (
    Cluster,
    Count,
    Kind,
    LabelKey,
    LabelValue,
    Namespace,
    NamespaceOrNone,
    Nanoseconds,
    ObjectName,
    Octet,
    Port,
    Uid,
)
from enrich.wire.journal_objects import JOURNALED, Journaled, decode_state, encode_state

VERSION: Final = 1
PROFILE: Final = "Profile"
GAP: Final = "Gap"
HEARTBEAT: Final = "Heartbeat"
KINDS: Final = (*JOURNALED, PROFILE)
"""The kinds that have states."""
DAY_NS: Final = 86_400 * 1_000_000_000
REPEAT_NS: Final = 30 * DAY_NS
"""The age at which the writer repeats a state that has not changed, before retention removes it."""
REPEATED_NS: Final = REPEAT_NS + DAY_NS
"""The age at which a state surely has been repeated, also if the writer was away when it was due."""
MAX_AHEAD_NS: Final = 300 * 1_000_000_000
"""How far the clock of a writer may be ahead of a reader's."""
MAX_STATE_BYTES: Final = 900_000
"""A broker takes records of 1 MiB by default. etcd takes objects of 1.5 MiB, of which policy needs a part."""
MAX_MANAGER: Final = 128
"""Characters of the name of a manager, as the API server limits it."""
MAX_REFUSED: Final = 200
"""Characters of the text that says why a state is outside the bounds."""
_NUMBER_BYTES: Final = 8
_KindOrNone = Annotated[str, Meta(max_length=63, pattern=r"\A[A-Za-z0-9]*\Z")]
_NameOrNone = Annotated[str, Meta(max_length=253, pattern=r"\A([A-Za-z0-9]([-A-Za-z0-9._:]*[A-Za-z0-9])?)?\Z")]
_LabelPattern = Annotated[str, Meta(min_length=1, max_length=400)]
"""A key of a label; with a ``*`` at the end, any key that begins so."""
_ResourceVersion = Annotated[str, Meta(max_length=64, pattern=r"\A[!-~]*\Z")]


class JournalError(ValueError):
    """The bytes are not an entry of the journal; the message says why."""


class ContainerPort(msgspec.Struct, frozen=True, array_like=True):
    """A container port that has a name."""

    name: Annotated[str, Meta(max_length=63)]
    port: Port
    protocol: Octet


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What policies can see of pods that differ in nothing else than their name; :mod:`enrich.history.profile`."""

    namespace: Namespace
    workload_kind: _KindOrNone = ""
    workload_name: _NameOrNone = ""
    labels: dict[LabelKey, LabelValue]
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    left_out: Annotated[tuple[_LabelPattern, ...], Meta(max_length=256)] | msgspec.UnsetType = msgspec.UNSET
    """The labels that it was made without, sorted, if they are not :data:`enrich.history.profile.LEFT_OUT`."""


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One version of one object, its end, a gap or a heartbeat. Times are nanoseconds of the writer's wall clock."""

    v: int = VERSION
    cluster: Cluster
    kind: Kind
    """One of :data:`KINDS`: NetworkPolicy, ClusterNetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy,
    Namespace, Node, Service, NetworkLogging, Profile; or Gap, or Heartbeat."""
    namespace: NamespaceOrNone = ""
    name: ObjectName = ""
    """The name of the object; the number of a profile. Empty for a gap and a heartbeat."""
    uid: Uid = ""
    resource_version: _ResourceVersion = ""
    """Empty if the source has none, as for a folder of manifests."""
    generation: Count = 0
    seen_ns: Nanoseconds
    """When the writer learned of this state. Of a gap: when it ended."""
    gone: bool = False
    """The object does not exist from here on. Then there is no ``object``."""
    refused: Annotated[str, Meta(max_length=MAX_REFUSED)] = ""
    """Why the state is outside the bounds of an entry. From here on the object exists, and its state is not known. Then
    there is no ``object``."""
    object: msgspec.Raw = msgspec.Raw(b"null")
    """The state: a value of :mod:`enrich.model` or a :class:`Profile`; :func:`state_of` decodes it."""
    changed_by: Annotated[str, Meta(max_length=MAX_MANAGER)] = ""
    """Who made this version, as the newest entry of the object's ``metadata.managedFields`` names its manager; several,
    separated by commas, if the API server's whole seconds do not tell them apart."""
    since_ns: Nanoseconds = 0
    """In a gap: when the last writer surely wrote; nothing is known between this and ``seen_ns``. 0: there was no
    writer before. In a state that is repeated: the ``seen_ns`` of its first entry. Otherwise 0."""

    @property
    def key(self) -> bytes:
        """The Kafka key."""
        return f"{self.cluster}/{self.kind}/{self.namespace}/{self.name}".encode()


_decode = msgspec.json.Decoder(JournalEntry).decode
_encode = msgspec.json.Encoder().encode
_encode_profile = msgspec.json.Encoder(order="sorted").encode
_decode_profile = msgspec.json.Decoder(Profile).decode


def number_of(profile: Profile) -> str:
    """Return the number of a profile: 16 hexadecimal digits, the same wherever it is computed."""
    return hashlib.blake2b(_encode_profile(profile), digest_size=_NUMBER_BYTES).hexdigest()


def raw_state(made: Journaled | Profile) -> msgspec.Raw:
    """Encode a state for :attr:`JournalEntry.object`; equal states have equal bytes.

    Raises :class:`JournalError` if the state is outside the bounds of the form."""
    try:
        if isinstance(made, Profile):
            encoded = _encode_profile(made)
            _decode_profile(encoded)
        else:
            encoded = encode_state(made)
    except (ValueError, RecursionError) as error:
        raise JournalError(str(error)) from error
    if len(encoded) > MAX_STATE_BYTES:
        raise JournalError(f"its state has {len(encoded)} bytes, more than {MAX_STATE_BYTES}")
    return msgspec.Raw(encoded)


def encode_entry(entry: JournalEntry) -> bytes:
    """Encode an entry as a Kafka value."""
    return _encode(entry)


def decode_entry(value: bytes, key: bytes, now_ns: int | None = None) -> JournalEntry:
    """Decode the value of the record with a key, and check its state. Raises :class:`JournalError`.

    ``now_ns``: the reader's time. An entry from the future is refused, because the entries after it are never earlier
    than it is: no change would be seen before that time."""
    try:
        entry = _decode(value)
    except (ValueError, RecursionError) as error:
        raise JournalError(str(error)) from error
    if entry.v != VERSION:
        raise JournalError(f"version {entry.v}, but this reader knows only {VERSION}")
    if entry.key != key:
        raise JournalError(f"the key {key[:400]!r} is not that of the entry, {entry.key!r}")
    if now_ns is not None and entry.seen_ns > now_ns + MAX_AHEAD_NS:
        raise JournalError(f"its time is {(entry.seen_ns - now_ns) // 1_000_000_000} s in the future")
    _check(entry)
    return entry


def unreadable_entry(key: bytes, seen_ns: int) -> JournalEntry | None:
    """Return an entry in place of one that cannot be read: of the object that its key names, nothing is known from
    ``seen_ns`` on. None if the key names none."""
    parts = key.decode(errors="replace").rsplit("/", 3)
    if len(parts) != 4 or parts[1] not in JOURNALED or not names_object(*parts[1:]):
        return None
    cluster, kind, namespace, name = parts
    return JournalEntry(
        cluster=cluster, kind=kind, namespace=namespace, name=name, seen_ns=seen_ns, object=msgspec.Raw(b"{}")
    )


def names_object(kind: str, namespace: str, name: str) -> bool:
    """Return whether an entry can name an object."""
    named = JournalEntry(cluster="-", kind=kind, namespace=namespace, name=name, seen_ns=0)
    try:
        _decode(_encode(named))
    except ValueError:
        return False
    return bool(name)


def refusal(error: JournalError) -> str:
    """Return an error of :func:`raw_state` as :attr:`JournalEntry.refused` has it: it may quote the object."""
    return "".join(one for one in str(error)[:MAX_REFUSED] if one.isprintable()) or "it cannot be encoded"


def state_of(entry: JournalEntry) -> Journaled | Profile | None:
    """Return the state that an entry has; None if the object is gone or its state was refused, and for a gap or a
    heartbeat.

    Raises :class:`JournalError`; never for an entry of :func:`decode_entry`."""
    if entry.gone or entry.refused or entry.kind not in KINDS:
        return None
    try:
        if entry.kind == PROFILE:
            return _decode_profile(entry.object)
        return decode_state(entry.kind, entry.object)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"{entry.kind} {entry.namespace}/{entry.name}: {error}") from error


def _check(entry: JournalEntry) -> None:
    """Raise JournalError if the parts of an entry contradict each other."""
    has_object = bytes(entry.object) != b"null"
    if entry.since_ns > entry.seen_ns:
        raise JournalError("since_ns is later than seen_ns")
    if entry.kind in (GAP, HEARTBEAT):
        if entry.name or entry.namespace or entry.gone or entry.refused or has_object:
            raise JournalError(f"a {entry.kind} has neither a name nor a state")
        return
    if entry.kind not in KINDS:
        raise JournalError(f"the journal has no kind {entry.kind}")
    if not entry.name or (entry.gone, bool(entry.refused), has_object).count(True) != 1:
        raise JournalError("an entry has a name, and a state, or is gone or refused")
    made = state_of(entry)
    if isinstance(made, Profile):
        if number_of(made) != entry.name or entry.namespace != made.namespace:
            raise JournalError("the number is not that of the profile")
    elif made is not None and (made.key != (entry.namespace, entry.name) or made.uid != entry.uid):
        raise JournalError("the state is another object's")
