"""What is logged by each NetworkLogging and each setting, as the word that the kernel reads."""

from __future__ import annotations

import itertools

import pytest

from enrich.network_logging import LogClass, LoggingSpec
from enrich.wire.batch import PolicyRef
from probe.policy.logging import (
    KERNEL_BITS,
    Logged,
    LoggingDefaults,
    Word,
    last_spec,
    make_word,
    named_refs,
)

LOG, DELEGATE = LogClass(log=True), LogClass(log=True, delegate=True)


@pytest.mark.parametrize(
    ("logging", "default_allowed", "expected"),
    [
        ("all", True, (Logged.ALL, Logged.ALL, False)),
        ("all", False, (Logged.ALL, Logged.ALL, True)),
        ("denied", True, (Logged.NONE, Logged.ALL, True)),
        ("none", True, (Logged.NONE, Logged.NONE, True)),
    ],
)
def test_the_settings_say_what_is_logged_without_an_object(
    logging: str, default_allowed: bool, expected: tuple[Logged, Logged, bool]
) -> None:
    word = make_word(None, LoggingDefaults(logging, default_allowed))
    assert (word.allowed, word.denied, word.cuts_default) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (LoggingSpec(), (Logged.NONE, Logged.NONE, True)),
        (LoggingSpec(LOG, LOG), (Logged.ALL, Logged.ALL, False)),
        (LoggingSpec(LOG), (Logged.ALL, Logged.NONE, False)),
        (LoggingSpec(deny=LOG), (Logged.NONE, Logged.ALL, True)),
        # No policy is behind a default allow, so none can ask for it.
        (LoggingSpec(DELEGATE, LOG), (Logged.LISTED, Logged.ALL, True)),
        (LoggingSpec(LOG, DELEGATE), (Logged.ALL, Logged.LISTED, False)),
        (LoggingSpec(DELEGATE, DELEGATE), (Logged.LISTED, Logged.LISTED, True)),
    ],
)
@pytest.mark.parametrize("setting", ["all", "denied", "none"])
def test_an_object_says_what_is_logged_with_any_settings(
    spec: LoggingSpec, expected: tuple[Logged, Logged, bool], setting: str
) -> None:
    word = make_word(spec, LoggingDefaults(setting))
    assert (word.allowed, word.denied, word.cuts_default) == expected


def test_what_a_fresh_map_holds_logs_everything() -> None:
    assert make_word(None, LoggingDefaults()).encode() == 0


def test_the_word_keeps_the_last_valid_object_and_its_parts_apart() -> None:
    seen = set()
    classes = [LogClass(), LOG, DELEGATE]
    for allow, deny, marks in itertools.product(classes, classes, [False, True]):
        spec = LoggingSpec(allow, deny)
        word: Word = make_word(spec, LoggingDefaults(marks_denied=marks))
        assert last_spec(word.encode()) == spec
        seen.add(word.encode() & KERNEL_BITS)
    assert len(seen) == 18
    assert last_spec(make_word(None, LoggingDefaults("none", marks_denied=True)).encode()) is None


def test_the_log_names_only_the_policies_that_ask() -> None:
    refs = tuple(PolicyRef("NetworkPolicy", "shop", name, 0) for name in ("a", "b", "c"))
    other = PolicyRef("ClusterNetworkPolicy", "", "b", 1)
    asking = frozenset({("NetworkPolicy", "shop", "b"), ("NetworkPolicy", "other", "a")})
    assert named_refs((*refs, other), asking) == (refs[1],)
    assert named_refs((refs[0], other), asking) == ()
