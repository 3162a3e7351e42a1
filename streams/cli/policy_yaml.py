"""Policies of the journal as YAML, for people who read them beside what they decided."""

from __future__ import annotations

from typing import Final

import yaml

from enrich.model import Policy
from enrich.parse.manifest_of import manifest_of

_HEAD: Final = (
    "# From kubeweir's journal: all that the policy engine reads.\n# Left out: labels, other annotations, status.\n"
)


def policy_yaml(policy: Policy) -> str:
    """Return the YAML of a policy; empty if it cannot be whole, because a part of the policy could not be read."""
    made = manifest_of(policy)
    # Names and labels come from the cluster: in ASCII none of them looks like another.
    return "" if made is None else _HEAD + yaml.safe_dump(made, sort_keys=False, allow_unicode=False, width=1_000)
