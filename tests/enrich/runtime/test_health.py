"""The health port: what its pages say."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from enrich.runtime.health import Check, HealthServer, Readiness
from tests.pages import page_of


def test_readiness_is_a_page_and_a_metric() -> None:
    problems: dict[str, str | None] = {"kafka": "is away", "source": None}
    checks: dict[str, Check] = {name: (lambda name=name: problems[name]) for name in problems}  # type: ignore[misc]
    notes: list[str] = []
    server = HealthServer("127.0.0.1:0", CollectorRegistry(), checks, lambda: notes)
    try:
        assert page_of(server.port, "/readyz") == (503, "kafka: is away\n")
        metrics = page_of(server.port, "/metrics")[1].splitlines()
        assert {'kubeweir_ready{check="kafka"} 0.0', 'kubeweir_ready{check="source"} 1.0'} <= set(metrics)
        assert any(line.startswith("process_cpu_seconds_total ") for line in metrics)
        problems["kafka"] = None
        assert page_of(server.port, "/readyz") == (200, "ok\n")
        notes.append("not enforced: pod shop/a: no interface has its address yet")
        assert page_of(server.port, "/readyz") == (200, f"ok\n{notes[0]}\n")
        assert 'kubeweir_ready{check="kafka"} 1.0' in page_of(server.port, "/metrics")[1]
    finally:
        server.close()


def test_a_check_that_has_never_passed_says_since_when() -> None:
    clock, problems = [1000.0], {"kafka": "is away", "source": ""}
    ready = Readiness({name: (lambda name=name: problems[name] or None) for name in problems}, lambda: clock[0])  # type: ignore[misc]
    assert ready.problems() == {"kafka": "is away"}, "it starts just now"
    clock[0] += 45
    problems["source"] = "is away too"
    assert ready.problems() == {"kafka": "is away (since the start, 45 s ago)", "source": "is away too"}
    problems["kafka"] = ""
    assert ready.problems() == {"source": "is away too"}
    problems["kafka"] = "is away again"
    assert ready.problems()["kafka"] == "is away again"


def test_details_are_added_only_while_something_is_wrong() -> None:
    problem: list[str] = []
    server = HealthServer(
        "127.0.0.1:0", CollectorRegistry(), {"work": lambda: problem[0] if problem else None}, details=lambda: ["ages"]
    )
    try:
        assert page_of(server.port, "/readyz") == (200, "ok\n")
        problem.append("stands still")
        assert page_of(server.port, "/readyz") == (503, "work: stands still\nages\n")
    finally:
        server.close()
