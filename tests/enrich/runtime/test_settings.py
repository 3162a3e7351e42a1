"""Settings from the environment: their types, their limits, and names that have changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import probe.settings
import streams.settings
from enrich.runtime.settings import Described, SettingsError, describe, described, load, setting


@dataclass(frozen=True, slots=True)
class Base:
    kafka: str = setting("WEIR_KAFKA", "127.0.0.1:9092")
    """Bootstrap servers."""


@dataclass(frozen=True, slots=True)
class Settings(Base):
    """One field of each type."""

    node: str = setting("WEIR_NODE", "this-machine", default_text="the host name")
    """The node's name."""
    wait: float = setting("WEIR_WAIT", 2.0, least=0.5, formerly=("WEIR_HOLD", "WEIR_DELAY"))
    """Seconds that a verdict
    waits."""
    entries: int = setting("WEIR_ENTRIES", 10, least=1)
    """Entries of the map."""
    labels: tuple[str, ...] = setting("WEIR_LABELS", ("app", "tier"))
    """Labels in a record."""
    folder: Path | None = setting("WEIR_FOLDER", None)
    """A folder."""
    audit: bool = setting("WEIR_AUDIT", default=False)
    """Whether denials are only reported."""
    partitions: int = setting("WEIR_PARTITIONS", 4, least=1, most=100)
    """Partitions of a topic."""
    by: Literal["none", "namespace", "workload"] = setting("WEIR_BY", "none")
    """The label of the metric."""


def test_unset_and_empty_variables_leave_the_default() -> None:
    assert load(Settings, {"WEIR_ENTRIES": ""}) == Settings()


def test_each_type_is_read() -> None:
    found = load(
        Settings,
        {"WEIR_KAFKA": "kafka:9092", "WEIR_WAIT": "0.5", "WEIR_ENTRIES": "7", "WEIR_LABELS": "a, b,",
         "WEIR_FOLDER": "/srv/pods", "WEIR_AUDIT": "Yes", "WEIR_BY": "workload"},
    )  # fmt: skip
    assert found == Settings(
        "kafka:9092", "this-machine", 0.5, 7, ("a", "b"), Path("/srv/pods"), audit=True, by="workload"
    )


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("WEIR_ENTRIES", "many", "WEIR_ENTRIES='many': must be a whole number from 1"),
        ("WEIR_ENTRIES", "0", "WEIR_ENTRIES='0': must be a whole number from 1"),
        ("WEIR_WAIT", "0.4", "WEIR_WAIT='0.4': must be a number from 0.5"),
        ("WEIR_WAIT", "inf", "WEIR_WAIT='inf': must be a number from 0.5"),
        ("WEIR_WAIT", "nan", "WEIR_WAIT='nan': must be a number from 0.5"),
        ("WEIR_PARTITIONS", "101", "WEIR_PARTITIONS='101': must be a whole number from 1 to 100"),
        ("WEIR_AUDIT", "maybe", "WEIR_AUDIT='maybe': must be true or false"),
        ("WEIR_BY", "pod", "WEIR_BY='pod': must be none, namespace, workload"),
    ],
)
def test_a_value_that_is_not_accepted_is_named_with_what_is(variable: str, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(Settings, {variable: text})
    assert str(error.value) == message


@pytest.mark.parametrize("old", ["WEIR_HOLD", "WEIR_DELAY"])
@pytest.mark.parametrize("more", [{}, {"WEIR_WAIT": "1"}])
def test_a_former_name_is_refused_with_the_new_one(old: str, more: dict[str, str]) -> None:
    """Also beside the new name: one of the two values would be ignored."""
    with pytest.raises(SettingsError, match=f"^{old} is now WEIR_WAIT: set that, and remove {old}$"):
        load(Settings, {old: "5", **more})


def test_an_empty_former_name_counts_as_unset() -> None:
    assert load(Settings, {"WEIR_HOLD": ""}) == Settings()


RENAMED = {
    probe.settings.Settings: {
        "WEIR_FIRSTS": "WEIR_POD_DENIED_FLOWS",
        "WEIR_FLOWS": "WEIR_CONNECTIONS",
        "WEIR_POD_FLOWS": "WEIR_POD_CONNECTIONS",
        "WEIR_ROWS": "WEIR_POLICY_ENTRIES",
        "WEIR_PORTS": "WEIR_PORT_ENTRIES",
        "WEIR_WINDOWS": "WEIR_DENIED_FLOWS",
        "WEIR_BATCH_ROWS": "WEIR_BATCH_VERDICTS",
    },
    streams.settings.Settings: {
        "WEIR_HOLD": "WEIR_ATTRIBUTION_WAIT",
        "WEIR_HOLD_BYTES": "WEIR_PENDING_BYTES",
        "WEIR_IN_FLIGHT_ROWS": "WEIR_IN_FLIGHT_VERDICTS",
        "WEIR_VERDICTS_MOST": "WEIR_VERDICTS_LIMIT",
    },
}


@pytest.mark.parametrize(
    ("cls", "old", "new"), [(cls, old, new) for cls, names in RENAMED.items() for old, new in names.items()]
)
def test_the_services_refuse_every_former_name(cls: type, old: str, new: str) -> None:
    with pytest.raises(SettingsError, match=f"^{old} is now {new}:"):
        load(cls, {old: "1"})


@pytest.mark.parametrize("cls", RENAMED)
def test_former_names_are_not_reused_and_every_setting_is_described(cls: type) -> None:
    found = described(cls)
    names = [name for one in found for name in (one.variable, *one.formerly)]
    assert len(names) == len(set(names))
    assert all(one.description for one in found)


def test_settings_describe_themselves() -> None:
    assert described(Settings) == [
        Described("WEIR_KAFKA", "text", "127.0.0.1:9092", None, (), "Bootstrap servers."),
        Described("WEIR_NODE", "text", "the host name", None, (), "The node's name."),
        Described("WEIR_WAIT", "number", "2.0", 0.5, ("WEIR_HOLD", "WEIR_DELAY"), "Seconds that a verdict waits."),
        Described("WEIR_ENTRIES", "whole number", "10", 1, (), "Entries of the map."),
        Described("WEIR_LABELS", "comma-separated list", "app,tier", None, (), "Labels in a record."),
        Described("WEIR_FOLDER", "path", "", None, (), "A folder."),
        Described("WEIR_AUDIT", "true or false", "false", None, (), "Whether denials are only reported."),
        Described("WEIR_PARTITIONS", "whole number", "4", 1, (), "Partitions of a topic.", 100),
        Described("WEIR_BY", "none, namespace or workload", "none", None, (), "The label of the metric."),
    ]
    assert describe(Settings).splitlines()[:4] == [
        "  WEIR_KAFKA [127.0.0.1:9092]", "      Bootstrap servers.",
        "  WEIR_NODE [the host name]", "      The node's name.",
    ]  # fmt: skip
