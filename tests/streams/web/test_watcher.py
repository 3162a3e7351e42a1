"""What a live view is sent: exact counts, a sample that prefers denies, and nothing that could break an event."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec

from streams.observing.choice import Choice
from streams.observing.filters import Filters
from streams.web.outbox import MAX_BYTES, MAX_WAITING, Outbox
from streams.web.viewers import Everybody
from streams.web.watcher import SHOWN, Watcher
from tests.streams.web.records import make_end, make_flow


def watched(flows: list[Any], **filters: Any) -> dict[str, Any]:
    sent: list[bytes] = []

    def put(message: bytes) -> bool:
        sent.append(message)
        return True

    chance = random.Random(17)  # noqa: S311 - not a secret
    watcher = Watcher(Choice(Filters(**filters)), Everybody(), put, chance)
    for flow in flows:
        watcher.offer(flow, b"")
    assert watcher.send(5.0)
    (message,) = sent
    head, data, *rest = message.split(b"\n")
    assert (head, rest) == (b"event: flows", [b"", b""])
    found = msgspec.json.decode(data.removeprefix(b"data: "))
    assert isinstance(found, dict)
    return found


def test_few_records_are_all_shown_in_order() -> None:
    found = watched([make_flow(number) for number in (3, 1, 2)])
    assert found == {**found, "at": 5.0, "counts": {"allow": 3}, "withheld": 0}
    assert [flow["id"] for flow in found["flows"]] == ["r1-1", "r1-2", "r1-3"]


def test_many_are_counted_exactly_and_denies_are_shown_first() -> None:
    flows = [make_flow(number, disposition="deny" if number % 500 == 7 else "allow") for number in range(2500)]
    found = watched(flows)
    assert found["counts"] == {"allow": 2495, "deny": 5}
    assert len(found["flows"]) == SHOWN
    assert sum(flow["disposition"] == "deny" for flow in found["flows"]) == 5


def test_a_sample_is_of_all_of_its_time() -> None:
    places = [int(flow["id"][3:]) for flow in watched([make_flow(number) for number in range(5000)])["flows"]]
    assert min(places) < 1500
    assert max(places) > 3500


def test_repeats_unlogged_and_unwanted_records_do_not_count() -> None:
    flows = [make_flow(1), make_flow(1), make_flow(2, logged=False), make_flow(3, disposition="deny")]
    assert watched(flows, verdicts=["allow"])["counts"] == {"allow": 1}


def test_a_hostile_record_stays_one_event() -> None:
    hostile = "x\n\nevent: cut\ndata: {}\n\n\u2028<script>alert(1)</script>"
    flow = make_flow(1, src=msgspec.structs.replace(make_end("shop", "web-0"), pod_name=hostile), disposition=hostile)
    found = watched([flow])
    assert found["flows"][0]["src"]["pod_name"] == hostile
    assert found["counts"] == {"other": 1}


def test_a_slow_browser_is_cut_and_keeps_nothing() -> None:
    async def run() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        assert all(outbox.put(b"x") for _ in range(MAX_WAITING))
        assert not outbox.put(b"x")
        assert not outbox.put(b"x")
        assert await outbox.take(0.01) is None
        assert outbox.ended == "slow"

    asyncio.run(run())


def test_what_waits_for_a_browser_is_bounded_in_bytes() -> None:
    async def run() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        assert outbox.put(b"x" * (MAX_BYTES + 1))
        assert not outbox.put(b"x")
        outbox = Outbox(asyncio.get_running_loop())
        assert outbox.put(b"x" * MAX_BYTES)
        assert await outbox.take(5) == b"x" * MAX_BYTES
        assert outbox.put(b"x" * MAX_BYTES)
        assert not outbox.put(b"x")
        assert await outbox.take(0.01) is None

    asyncio.run(run())


def test_a_stream_beats_waits_and_ends() -> None:
    async def run() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        assert await outbox.take(0.01) == b""
        await asyncio.to_thread(outbox.put, b"one")
        assert await outbox.take(5) == b"one"
        waiting = asyncio.create_task(outbox.take(60))
        await asyncio.sleep(0)
        await asyncio.to_thread(outbox.end, "stopping")
        assert await waiting is None
        assert not outbox.put(b"late")

    asyncio.run(run())
