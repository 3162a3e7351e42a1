"""The YAML of a policy says the same to each reader of YAML."""

from __future__ import annotations

import pytest
import yaml

from streams.cli.policy_yaml import dumped, policy_yaml
from tests.enrich.history.advice.policies import network_policy

ODD = (
    "y",
    "N",
    "1e3",
    "12e4567",
    "0o17",
    "0b11",
    "1_000",
    "+1",
    "-1e3",
    ".5e1",
    "5e-1",
    "08",
    "00:10",
    "0x1p-2",
    "1.5",
)


@pytest.mark.parametrize("text", ODD)
def test_no_label_becomes_a_number_or_a_truth_value(text: str) -> None:
    """kubectl reads `y: x` as the label "true", and `1e3: x` as the label "1000": another policy."""
    assert dumped({text: text}) == f"'{text}': '{text}'\n"


@pytest.mark.parametrize("text", ["y", "1e3", "0o17"])
def test_a_policy_has_its_labels(text: str) -> None:
    selecting = {"podSelector": {"matchLabels": {"a": text}}, "policyTypes": ["Ingress"]}
    made = policy_yaml(network_policy("db", selecting))
    assert f"a: '{text}'" in made
    assert yaml.safe_load(made)["spec"] == selecting


@pytest.mark.parametrize("text", ["app", "a1", "yes-man", "10.0.0.0/8", "fd00::/8", "networking.k8s.io/v1"])
def test_other_texts_are_not_quoted(text: str) -> None:
    assert dumped({"cidr": text}) == f"cidr: {text}\n"


def test_hostile_names_stay_texts() -> None:
    """A name comes from a topic: none ends a document, or begins a comment or another field."""
    for text in (
        "a\n---\nkind: b",
        "a #b",
        "a: b",
        "\u2028x",
        "*a",
        "&a",
        "!x",
        "<<",
        "|",
        "a\tb\x1b",
        "\U0001f600",
        "%a",
        "@",
        "y\n",
    ):
        assert yaml.safe_load(dumped({text: [text]})) == {text: [text]}
