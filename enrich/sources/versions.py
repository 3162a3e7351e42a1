"""Which version of an object the API server sent, for those who keep each version: the journal.

The index has states, not versions: an object that changes twice within a moment is seen once there, and without its
resource version. So a source may be given an observer, which it calls for each version, after the index has it. Without
one, nothing of this costs anything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from enrich.model import Object


class Version(NamedTuple):
    """What the API server says about a version of an object; a source of files says nothing."""

    resource_version: str = ""
    generation: int = 0
    changed_by: str = ""
    """The manager of the newest entry of ``metadata.managedFields`` that is not a write of the status. The server notes
    whole seconds: several managers of the same second are all named, separated by commas."""


UNKNOWN: Final = Version()


class Observer(Protocol):
    """Is called on the threads of a source, so it must be quick, and must not raise."""

    @property
    def kinds(self) -> Collection[type]:
        """The kinds that it observes."""
        ...

    def listed(self, kind: type, found: Sequence[tuple[Object, Version]]) -> None:
        """Take a complete list of a kind. A version may be unknown although it was known before."""
        ...

    def set(self, made: Object, version: Version) -> None:
        """Take an object that was created or changed."""
        ...

    def deleted(self, made: Object, version: Version) -> None:
        """Take the end of an object, of which only the kind and the name are certain."""
        ...


class _Managed(msgspec.Struct, gc=False):
    manager: str = ""
    time: str | None = None
    subresource: str = ""


class _Meta(msgspec.Struct, gc=False, rename="camel"):
    resource_version: str = ""
    generation: int | None = None
    managed_fields: list[_Managed] | None = None


class _Item(msgspec.Struct, gc=False):
    metadata: _Meta


_decode = msgspec.json.Decoder(_Item).decode


def version_of(item: bytes | msgspec.Raw) -> Version:
    """Read the version of an object from its JSON; it is unknown if that has another form."""
    try:
        meta = _decode(item).metadata
    except (ValueError, RecursionError):
        return UNKNOWN
    # RFC 3339 in UTC, so that the order of texts is that of times.
    spec = [(one.time or "", one.manager) for one in meta.managed_fields or () if one.subresource != "status"]
    newest = max((when for when, _ in spec), default="")
    managers = dict.fromkeys(manager for when, manager in spec if when == newest)
    return Version(meta.resource_version, max(meta.generation or 0, 0), ", ".join(managers))
