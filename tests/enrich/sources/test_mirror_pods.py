"""The UID of a static pod, from its mirror pod: by the fast reader and by the parser."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from enrich.model import Pod
from enrich.parse.objects import parse
from enrich.sources.pods import PodJson, PodReader


@pytest.mark.parametrize(
    ("annotations", "uid"),
    [
        (None, ""),
        ({}, ""),
        ({"kubernetes.io/config.source": "file", "kubernetes.io/config.mirror": "5f1c"}, "5f1c"),
        ({"kubernetes.io/config.hash": "5f1c"}, ""),
    ],
)
def test_only_a_mirror_pod_has_one(annotations: dict[str, str] | None, uid: str) -> None:
    meta: dict[str, Any] = {"name": "p", "namespace": "shop", "uid": "u", "annotations": annotations}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [{"name": "c"}]}}
    read = PodReader().read(msgspec.json.decode(orjson.dumps(document), type=PodJson))
    parsed = parse(document)
    assert isinstance(parsed, Pod)
    assert (read.static_uid, parsed.static_uid) == (uid, uid)
