"""A cursor over the API's JSON that knows its path, so that an error names the field.

An object is read strictly, leniently or exhaustively:

- Strictly, the first mistake is an error.
- Leniently, for policies from the API server, because an older validation may have accepted them: a reader continues
  where it knows what the mistake means, and notes it in ``problems``. A reader calls :meth:`Field.complain` for a value
  that is wrong but has a meaning, and :meth:`Field.attempt` for a part that can be left out. Strictly, both raise.
- Exhaustively, for manifests: every mistake is wanted, and an object with one is thrown away. So a reader also
  continues after :meth:`Field.refuse` and :meth:`Field.survey`, which raise in the other two ways.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DNS: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
"""``IsDNS1123Subdomain`` (apimachinery, util/validation), which limits the length of the name but not of its labels."""
_CIDR: Final = re.compile(r"[0-9A-Fa-f.:]+/[0-9]{1,3}")
_ZEROS: Final = re.compile(r"(?<![0-9])0+(?=[0-9])")
_T = TypeVar("_T")


class InvalidObjectError(ValueError):
    """The API server would refuse this object. ``field`` is the path of the field, as the server writes it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class UnknownFieldError(InvalidObjectError):
    """The kind of the object has no such field."""


class UnknownOptionError(InvalidObjectError):
    """None of the fields that are known is set, where one must be: a newer API may have one more."""


@dataclass(frozen=True, slots=True)
class Field:
    """A value and its path. Every method that reads raises :class:`InvalidObjectError` for a value of the wrong
    type."""

    path: str
    value: Any
    problems: list[InvalidObjectError] | None = field(default=None, compare=False)
    """Takes the mistakes of an object that is read leniently or exhaustively; None: it is read strictly."""
    exhaustive: bool = field(default=False, compare=False)
    """Whether every mistake is wanted."""

    def fail(self, message: str) -> NoReturn:
        """Raise the error for this field."""
        raise InvalidObjectError(self.path, message)

    def refuse(self, message: str) -> None:
        """Raise the error for this field; exhaustively, note it. The caller then returns any value of the type."""
        if not self.exhaustive:
            self.fail(message)
        self.complain(message)

    def complain(self, message: str) -> None:
        """Note a mistake whose meaning the caller knows. Raises it if the object is read strictly."""
        self._note(InvalidObjectError(self.path, message))

    def attempt(self, read: Callable[[Field], _T]) -> _T | None:
        """Return what ``read`` makes of this field; None, with a note, if it cannot. Strictly, the error is raised."""
        try:
            return read(self)
        except InvalidObjectError as error:
            self._note(error)
            return None

    def survey(self, read: Callable[[Field], _T]) -> _T | None:
        """Return what ``read`` makes of this field; exhaustively, None with a note if it cannot."""
        return self.attempt(read) if self.exhaustive else read(self)

    def _note(self, error: InvalidObjectError) -> None:
        if self.problems is None:
            raise error
        self.problems.append(error)

    def at(self, path: str, value: Any) -> Field:
        """Return another field of the same object."""
        return Field(path, value, self.problems, self.exhaustive)

    def __getitem__(self, name: str) -> Field:
        if self.value is None:
            return self.at(self._below(name), None)
        if not isinstance(self.value, Mapping):
            self.refuse("must be an object")
            return self.at(self._below(name), None)
        return self.at(self._below(name), self.value.get(name))

    def _below(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def __contains__(self, name: str) -> bool:
        return isinstance(self.value, Mapping) and self.value.get(name) is not None

    @property
    def is_set(self) -> bool:
        """Whether there is a value. Null counts as absent, as in the API."""
        return self.value is not None

    def items(self, least: int = 0, most: int | None = None) -> Iterator[Field]:
        """Yield the elements of a list. An absent one is empty; a present one has ``least`` to ``most`` elements."""
        if self.value is None:
            return
        if not isinstance(self.value, list):
            self.refuse("must be a list")
            return
        if len(self.value) < least:
            self.refuse(f"must have at least {least} elements, has {len(self.value)}")
        if most is not None and len(self.value) > most:
            self.complain(f"must have at most {most} elements, has {len(self.value)}")
        for index, element in enumerate(self.value):
            yield self.at(f"{self.path}[{index}]", element)

    def text(self, default: str | None = None) -> str:
        """Read a string, which is required if there is no default."""
        if self.value is None and default is not None:
            return default
        if isinstance(self.value, str):
            return self.value
        self.refuse("is required" if self.value is None else f"must be a string, is {self.value!r}")
        return ""

    def choice(self, *allowed: str, default: str | None = None) -> str:
        """Read one of a few words."""
        chosen = self.text(default)
        if chosen not in allowed:
            self.refuse(f"must be one of {', '.join(allowed)}, is {chosen!r}")
            return allowed[0]
        return chosen

    def only(self, *names: str) -> Field:
        """Return the only field that is set, of those allowed ("exactly one field must be set").

        Raises :class:`UnknownOptionError` if none of them is, or another."""
        if not isinstance(self.value, Mapping):
            self.fail("is required" if self.value is None else "must be an object")
        found = [self[name] for name in names if self[name].is_set]
        others = sorted(key for key, value in self.value.items() if value is not None and key not in names)
        if len(found) != 1 or others:
            set_fields = ", ".join(map(str, self.value)) or "none"
            raise UnknownOptionError(self.path, f"must have exactly one of {', '.join(names)}, has {set_fields}")
        return found[0]

    def whole(self, least: int, most: int) -> int:
        """Read a whole number within bounds."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.fail(f"must be a number, is {self.value!r}")
        if not least <= self.value <= most:
            self.fail(f"must be between {least} and {most}, is {self.value}")
        return self.value

    def port(self) -> int:
        """Read a port number, 1 to 65535."""
        return self.whole(1, 65535)

    def boolean(self) -> bool:
        """Read true or false; an absent field is false."""
        if self.value is not None and not isinstance(self.value, bool):
            self.refuse(f"must be true or false, is {self.value!r}")
        return bool(self.value)

    def name(self) -> str:
        """Read the name of an object, a DNS subdomain (RFC 1123)."""
        name = self.text()
        if len(name) > 253 or not _DNS.fullmatch(name):
            self.refuse(f"must be a lower-case DNS name, is {name!r}")
        return name

    def labels(self) -> dict[str, str]:
        """Read a map of label keys to label values."""
        if self.value is None:
            return {}
        if not isinstance(self.value, Mapping):
            self.refuse("must be an object")
            return {}
        return {
            self.at(self.path, key).label_key(): self.at(f"{self.path}[{key}]", value).label_value()
            for key, value in self.value.items()
        }

    def label_key(self) -> str:
        """Read a qualified name: up to 63 characters, optionally after a DNS prefix and a slash.

        Leniently, any other text is a key that no object has."""
        key = self.text()
        prefix, slash, name = key.rpartition("/")
        if not _NAME.fullmatch(name) or (slash and (len(prefix) > 253 or not _DNS.fullmatch(prefix))):
            self.complain(f"{key!r} is not a label key")
        return key

    def label_value(self) -> str:
        """Read a label value: empty, or up to 63 characters that begin and end with a letter or digit.

        Leniently, any other text is a value that no object has."""
        value = self.text()
        if value and not _NAME.fullmatch(value):
            self.complain(f"{value!r} is not a label value")
        return value

    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """Read a CIDR as ``isCIDR`` in the rules of a CRD accepts it. Host bits may be set, and are ignored."""
        cidr = self.text()
        found = self._network(cidr)
        address, _, bits = cidr.partition("/")
        if bits != str(found.prefixlen) or getattr(ipaddress.ip_address(address), "ipv4_mapped", None):
            self.fail(f"{cidr!r} is not a CIDR in its canonical form, {found}")
        return found

    def old_network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """Read a CIDR as ``ParseCIDRSloppy`` (k8s.io/utils/net) does, to which the API holds NetworkPolicies for ever.

        010.0.0.0/8 means 10.0.0.0/8, and so does ::ffff:10.0.0.0/104, because Go takes an IPv4-mapped block for IPv4.
        """
        cidr = self.text()
        found = self._network(cidr if ":" in cidr else _ZEROS.sub("", cidr))
        if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96 and found[0].ipv4_mapped:
            return ipaddress.IPv4Network((int(found[0].ipv4_mapped), found.prefixlen - 96))
        return found

    def _network(self, cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        if "/" not in cidr:
            self.fail(f"{cidr!r} is not a CIDR: it has no /bits")
        try:
            # Python would also accept netmasks and zones.
            return ipaddress.ip_network(cidr if _CIDR.fullmatch(cidr) else "", strict=False)
        except ValueError:
            self.fail(f"{cidr!r} is not a CIDR, such as 10.0.0.0/8 or fd00::/64")

    def ip(self) -> str:
        """Read an IP address and return its canonical text."""
        text = self.text()
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            self.refuse(f"{text!r} is not an IP address")
            return text
