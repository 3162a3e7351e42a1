"""The version of an object, as the API server writes it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from enrich.sources.versions import UNKNOWN, Version, version_of


def managed(manager: str, time: str | None, **more: str) -> dict[str, Any]:
    """Return an entry of managedFields."""
    return {"manager": manager, "operation": "Update", "time": time, "fieldsType": "FieldsV1", "fieldsV1": {}, **more}


def item(*managers: dict[str, Any]) -> bytes:
    """Return an object."""
    return orjson.dumps({"metadata": {"resourceVersion": "7", "generation": 2, "managedFields": list(managers)}})


def test_the_newest_manager_that_did_not_write_the_status_made_the_version() -> None:
    found = version_of(
        item(
            managed("helm", "2026-11-29T10:00:00Z"),
            managed("kubectl-client-side-apply", "2026-11-29T12:00:00Z"),
            managed("kubelet", "2026-11-29T13:00:00Z", subresource="status"),
            managed("argocd", "2026-11-29T11:00:00Z"),
        )
    )
    assert found == Version("7", 2, "kubectl-client-side-apply")


def test_managers_of_the_same_second_are_all_named_and_one_without_a_time_is_the_oldest() -> None:
    same = "2026-11-29T12:00:00Z"
    managers = managed("a", same), managed("b", same), managed("a", same, subresource="scale"), managed("c", None)
    assert version_of(item(*managers)).changed_by == "a, b"
    assert version_of(item(managed("c", None))).changed_by == "c"


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"metadata":{"managedFields":5}}', b"[" * 5000, b'{"metadata":{"generation":"x"}}']
)
def test_what_has_another_form_has_no_version(raw: bytes) -> None:
    assert version_of(raw) == UNKNOWN


def test_an_object_without_managers_has_none() -> None:
    assert version_of(b'{"metadata":{"resourceVersion":"7"}}') == Version("7")
