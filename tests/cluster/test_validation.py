"""A real kube-apiserver refuses what we refuse, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from enrich.parse.objects import InvalidObjectError, parse
from tests.cluster.apiserver import ApiServer
from tests.enrich.parse.test_network_policy import SPECS, policy

pytestmark = pytest.mark.cluster


def differences(
    api: ApiServer, path: str, documents: Iterable[dict[str, Any]]
) -> list[tuple[dict[str, Any], str, str]]:
    """Return the objects that one of both takes and the other refuses, and what the server and we say of each."""
    found = []
    for document in documents:
        theirs, ours = "taken", "taken"
        try:
            api.create(f"{path}?dryRun=All", document)
        except OSError as error:
            theirs = str(error)
        try:
            parse(document)
        except InvalidObjectError as error:
            ours = str(error)
        if (theirs == "taken") != (ours == "taken"):
            found.append((document, theirs, ours))
    return found


def test_the_server_judges_the_same(api: ApiServer) -> None:
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    assert differences(api, path, (policy(spec) for spec, _ in SPECS)) == []
