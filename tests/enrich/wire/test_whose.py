"""Which cluster a record names, also one that this version cannot decode."""

from __future__ import annotations

import pytest

from enrich.wire.whose import cluster_named, cluster_of_alert, is_foreign


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b'{"v":99,"cluster":"c2","new":{"a":[1]}}', "c2"),
        (b'{"v":1}', ""),
        (b'{"cluster":7}', ""),
        (b'["cluster"]', ""),
        (b"", ""),
        (b"junk", ""),
        (b'{"a":' + b"[" * 100_000, ""),
    ],
)
def test_the_cluster_is_read_without_the_rest(text: bytes, named: str) -> None:
    assert cluster_named(text) == named
    assert cluster_of_alert(b'{"id":1,"group":' + (text or b"{}") + b"}") == named


@pytest.mark.parametrize(
    ("named", "own", "foreign"), [("c2", "c1", True), ("c1", "c1", False), ("", "c1", False), ("c2", "", False)]
)
def test_only_another_name_is_foreign(named: str, own: str, foreign: bool) -> None:
    assert is_foreign(named, own) is foreign
