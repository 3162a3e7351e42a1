"""A real kube-apiserver refuses what we refuse, and nothing else."""

from __future__ import annotations

import pytest

from enrich.parse.objects import InvalidObjectError, parse
from tests.cluster.apiserver import ApiServer
from tests.enrich.parse.test_network_policy import SPECS, policy

pytestmark = pytest.mark.cluster


def test_the_server_judges_the_same(api: ApiServer) -> None:
    differ = []
    for spec, _ in SPECS:
        theirs, ours = "taken", "taken"
        try:
            api.create("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies?dryRun=All", policy(spec))
        except OSError as error:
            theirs = str(error)
        try:
            parse(policy(spec))
        except InvalidObjectError as error:
            ours = str(error)
        if (theirs == "taken") != (ours == "taken"):
            differ.append((spec, theirs, ours))
    assert differ == []
