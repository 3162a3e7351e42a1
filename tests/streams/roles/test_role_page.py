"""The page of all roles: it answers within the kubelet's patience, however slow the roles are."""

from __future__ import annotations

import threading

import pytest
from ports import free_port

from enrich.runtime.http_port import HttpPort, Response
from streams.roles import role_page
from tests.pages import page_of


def test_slow_roles_are_asked_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_page, "_TIMEOUT_S", 120.0)
    # No role answers before all are asked.
    all_asked = threading.Barrier(4)

    def answer(_path: str) -> Response:
        all_asked.wait(120)
        return Response(200, b"ok\n")

    roles = {f"role{number}": HttpPort(("127.0.0.1", 0), answer, (), print) for number in range(4)}
    page = free_port()
    try:
        with role_page.role_page(f"127.0.0.1:{page}", {name: role.port for name, role in roles.items()}):
            assert page_of(page, timeout_s=200) == (200, "ok\n")
    finally:
        for role in roles.values():
            role.close()
