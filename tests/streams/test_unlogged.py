"""Denials that are not logged: only alerts take them. And a change of what is logged denies nothing."""

from __future__ import annotations

import dataclasses

from enrich.model import NetworkPolicy
from enrich.parse.objects import parse
from streams.alerts.policy_changes import diff_policies, policy_name
from streams.matching.matcher import Matcher
from streams.matching.model import Match
from streams.observing.choice import Choice
from streams.observing.filters import Filters
from streams.observing.observe import Selection
from streams.routes.outputs import takes
from tests.streams.observing.test_observe import make_value


def test_no_route_and_no_table_shows_a_denial_that_is_not_logged() -> None:
    logged, cut = make_value(disposition="deny"), make_value(disposition="deny", logged=False)
    everything = Matcher("all", Match(), [])
    assert takes(everything, logged)
    assert not takes(everything, cut)
    selection = Selection(Choice(Filters()))
    assert selection.pick(cut) is None
    assert selection.pick(logged) is not None


def test_an_annotation_about_logging_is_not_a_change_that_may_have_caused_denials() -> None:
    metadata = {"namespace": "shop", "name": "web"}
    made = parse({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": {}})
    assert isinstance(made, NetworkPolicy)
    before = {policy_name(made): made}
    assert list(diff_policies(before, {policy_name(made): dataclasses.replace(made, logging="true")}, 1.0)) == []
    audited = dataclasses.replace(made, logging="true", audit=True)
    [change] = diff_policies(before, {policy_name(made): audited}, 1.0)
    assert change.what == "updated (audited from now on)"
