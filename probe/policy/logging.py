"""Decides which verdicts are logged: the word ``CONFIG_LOGGING`` (``bpf/logging.h``), and the policies that ask.

Nothing here is part of what is enforced. A policy's annotation is not in its digest, so changing it makes no policy
set, no entry and no rule.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from enrich.model import Name, Namespace, NetworkPolicy, Policy
from enrich.network_logging import LogClass, LoggingSpec
from enrich.parse.metadata import DENY_LOGGING, LOGGING
from enrich.policy.matching import PolicyView
from enrich.wire.batch import PolicyRef

ASKS: Final = "true"
"""The only value of an annotation that asks for logging."""
PolicyId = tuple[str, str, str]
"""Kind, namespace and name of a policy, as a :class:`PolicyRef` has them."""

_LOGGED_MASK: Final = 3
_DENIED_SHIFT: Final = 2
_CUTS_DEFAULT: Final = 0x10
_MARKS_DENIED: Final = 0x20
_FROM_OBJECT: Final = 0x100
"""The word below is the NetworkLogging's, not the settings'. The kernel does not read these bits."""
_SPEC_SHIFT: Final = 9
KERNEL_BITS: Final = 0xFF
"""The bits of the word that the kernel reads."""


class Logged(enum.IntEnum):
    """Which verdicts of a class are logged (``enum logged`` in ``bpf/logging.h``)."""

    ALL = 0
    NONE = 1
    LISTED = 2


class LoggingDefaults(NamedTuple):
    """What the settings say about logging."""

    logging: str = "all"
    """all, denied or none: what is logged without a NetworkLogging."""
    default_allowed: bool = True
    """Whether connections are logged that no policy allowed, where allowed ones are."""
    marks_denied: bool = False
    """Whether denials that are not logged are written all the same, for alerts."""

    @property
    def spec(self) -> LoggingSpec:
        """What is logged without a NetworkLogging."""
        return LoggingSpec(LogClass(self.logging == "all"), LogClass(self.logging in ("all", "denied")))


class Word(NamedTuple):
    """The value of ``CONFIG_LOGGING``: what the kernel logs, and what the last valid NetworkLogging said."""

    allowed: Logged
    denied: Logged
    cuts_default: bool
    marks_denied: bool
    last: LoggingSpec | None
    """The last valid NetworkLogging; None: there is none, and the settings say what is logged."""

    def encode(self) -> int:
        """Return the word as a number."""
        word = self.allowed | self.denied << _DENIED_SHIFT
        word |= _CUTS_DEFAULT * self.cuts_default | _MARKS_DENIED * self.marks_denied
        if self.last is not None:
            bits = (*self.last.allow, *self.last.deny)
            word |= _FROM_OBJECT | sum(bit << _SPEC_SHIFT + place for place, bit in enumerate(bits))
        return word


def make_word(last: LoggingSpec | None, defaults: LoggingDefaults) -> Word:
    """Return the word for the last valid NetworkLogging, None if there is none."""
    allow, deny = last or defaults.spec
    # No policy is behind a default allow, so none asks for it.
    cuts_default = not (allow.log and not allow.delegate and defaults.default_allowed)
    return Word(_logged(allow), _logged(deny), cuts_default, defaults.marks_denied, last)


def modes_of(word: int) -> dict[str, Logged]:
    """Return what a word lets the kernel log of each class of verdicts."""
    return {
        "allowed": Logged(word & _LOGGED_MASK),
        "default_allowed": Logged.NONE if word & _CUTS_DEFAULT else Logged.ALL,
        "denied": Logged(word >> _DENIED_SHIFT & _LOGGED_MASK),
    }


def last_spec(word: int) -> LoggingSpec | None:
    """Return the last valid NetworkLogging of a word that an earlier probe has written."""
    if not word & _FROM_OBJECT:
        return None
    bits = [bool(word >> _SPEC_SHIFT + place & 1) for place in range(4)]
    return LoggingSpec(LogClass(*bits[:2]), LogClass(*bits[2:]))


def policies_that_ask(view: PolicyView) -> frozenset[PolicyId]:
    """Return the policies whose annotation asks for their allowed connections to be logged."""
    return frozenset(_id(policy) for policy in _policies(view) if policy.logging == ASKS)


def named_refs(refs: tuple[PolicyRef, ...], asking: frozenset[PolicyId]) -> tuple[PolicyRef, ...]:
    """Return those of the policies behind an allowed connection that the log names if policies must ask for it."""
    return tuple(ref for ref in refs if (ref.kind, ref.namespace, ref.name) in asking)


def asks_for_denied(namespaces: Mapping[Name, Namespace], namespace: str) -> bool:
    """Return whether a namespace's annotation asks for what is denied to its pods to be logged."""
    found = namespaces.get(Name("", namespace))
    return found is not None and found.deny_logging == ASKS


def suspicious_annotations(view: PolicyView) -> dict[str, str]:
    """Return the annotations that ask for nothing because their value is another than ``true``, by object."""
    found = {
        f"{type(policy).__name__} {policy.key}, annotation {LOGGING}": policy.logging
        for policy in _policies(view)
        if policy.logging not in (None, ASKS)
    }
    found |= {
        f"Namespace {namespace.name}, annotation {DENY_LOGGING}": namespace.deny_logging
        for namespace in view.namespaces.values()
        if namespace.deny_logging not in (None, ASKS)
    }
    return {what: value for what, value in found.items() if value is not None}


def _policies(view: PolicyView) -> Iterable[Policy]:
    yield from view.policies.values()
    yield from view.cluster_policies.values()


def _id(policy: Policy) -> PolicyId:
    namespace = policy.namespace if isinstance(policy, NetworkPolicy) else ""
    return type(policy).__name__, namespace, policy.name


def _logged(one: LogClass) -> Logged:
    if not one.log:
        return Logged.NONE
    return Logged.LISTED if one.delegate else Logged.ALL
