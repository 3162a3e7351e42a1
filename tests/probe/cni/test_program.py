"""The program weir-cni with a probe that answers, one that does not, and none."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probe.cni.messages import GREETING, RequestError, failure, parse_request, success
from probe.cni.server import Server
from tests.cni import Call, ended, short_folder


@pytest.fixture
def call() -> Iterator[Call]:
    folder = short_folder()
    yield Call(folder / "cni.sock", netns="/proc/self/ns/net")
    shutil.rmtree(folder)


@pytest.fixture
def serve(call: Call) -> Iterator[Callable[[Callable[[bytes, int | None], bytes]], None]]:
    servers: list[Server] = []

    def start(handle: Callable[[bytes, int | None], bytes]) -> None:
        servers.append(Server(call.socket, handle))
        servers[-1].start()

    yield start
    for server in servers:
        server.stop()


def test_the_probe_gets_the_environment_standard_input_and_the_network_namespace(call: Call, serve: object) -> None:
    seen: list[tuple[bytes, bool]] = []

    def handle(raw: bytes, descriptor: int | None) -> bytes:
        seen.append((raw, descriptor is not None))
        return success(call.previous)

    serve(handle)  # type: ignore[operator]
    assert call.run("ADD") == (0, call.previous)
    ((raw, has_namespace),) = seen
    assert has_namespace
    assert b"OTHER=" not in raw
    assert raw.endswith(json.dumps(call.config).encode())
    request = parse_request(raw)
    assert (request.command, request.namespace, request.pod, request.uid) == ("ADD", "shop", "web", "uid-web")
    assert (request.container, request.interface, request.addresses) == ("c1", "eth0", ("10.244.0.9",))


def test_an_error_of_the_probe_is_printed(call: Call, serve: object) -> None:
    serve(lambda *_: failure(RequestError("no", 11, "wait"), "0.4.0"))  # type: ignore[operator]
    assert call.run("ADD") == (1, {"cniVersion": "0.4.0", "code": 11, "msg": "no", "details": "wait"})


def test_without_a_probe_add_is_tried_again_later(call: Call) -> None:
    started = time.monotonic()
    code, error = call.run("ADD")
    assert (code, error["code"], error["cniVersion"]) == (1, 11, "1.0.0")
    assert str(call.socket) in error["details"]
    assert time.monotonic() - started >= 1


def test_without_a_probe_an_open_plugin_prints_the_previous_result(call: Call) -> None:
    call.on_failure = "open"
    assert call.run("ADD") == (0, call.previous)
    assert call.run("CHECK") == (0, None)


def test_what_is_not_surely_open_is_closed(call: Call) -> None:
    rests = (
        '"onFailure":"open"', '"onFailure":"open"}', '"onFailure":"open","prevResult":{"a":"}', '"prevResult":{}}',
        '"onFailure":"open","prevResult"', '"onFailure":"open","prevResult":', '"onFailure":"opened","prevResult":{}}',
        '"args":{"onFailure":"open"},"x":[{"prevResult":{}}]}', '"onFailure":"op\\u0065n","prevResult":{}}',
        '"a" "onFailure":"open","prevResult":{}}', '"onFailure":open,"prevResult":{}}', "{" * 100_000, "\0" * 100,
    )  # fmt: skip
    started = [call.start("ADD", f'{{"wait":1,"socket":"{call.socket}",{rest}'.encode()) for rest in rests]
    for rest, process in zip(rests, started, strict=True):
        code, error = ended(process)
        assert (code, error["code"]) == (1, 11), rest


def test_a_delete_succeeds_at_once_without_a_probe_and_soon_with_one_that_hangs(call: Call, serve: object) -> None:
    call.wait = 60

    def seconds() -> float:
        started = time.monotonic()
        assert call.run("DEL") == (0, None)
        return time.monotonic() - started

    # The quickest of three: a machine that stands still for a moment holds up one of them.
    assert min(seconds() for _ in range(3)) < 20
    over = threading.Event()
    serve(lambda *_: (over.wait(60), success())[1])  # type: ignore[operator]
    assert min(seconds() for _ in range(3)) < 20
    over.set()


def test_a_probe_that_starts_meanwhile_is_asked(call: Call, serve: object) -> None:
    call.wait = 30
    waiting = call.start("ADD")
    time.sleep(0.3)  # not the thing that is waited for: the program is to find no socket first
    serve(lambda *_: success(call.previous))  # type: ignore[operator]
    assert ended(waiting) == (0, call.previous)


def test_half_an_answer_is_none(call: Call, serve: object) -> None:
    """A probe that is killed while it answers must not start a pod."""
    answers = {
        "a": b"", "b": b"weir-cni 1", "c": b"weir-cni 1 0 9\n{}", "d": b"weir-cni 1 0 2\n{}x",
        "e": b"weir-cni 1 7 2\n{}", "f": b"weir-cni 1 0\n{}", "g": b"weir-cni 2 0 2\n{}", "h": b"\xff" * 2_000_000,
    }  # fmt: skip
    # What is not complete was sent by a program whose time is over.
    serve(lambda raw, _: answers[parse_request(raw).container] if raw.endswith(b"}") else b"")  # type: ignore[operator]
    started = {name: dataclasses.replace(call, container=name).start("ADD") for name in answers}
    for name, process in started.items():
        code, error = ended(process)
        assert (code, error["code"]) == (1, 11), answers[name][:20]


def test_what_does_not_concern_the_probe_succeeds_without_it(call: Call) -> None:
    code, version = call.run("VERSION")
    assert code == 0
    assert {"0.4.0", "1.0.0", "1.1.0"} <= set(version["supportedVersions"])
    assert call.run("STATUS") == (0, None)
    assert call.run("GC") == (0, None)
    code, error = call.run("UPDATE")
    assert (code, error["code"]) == (1, 4)


def test_too_much_standard_input_is_refused(call: Call) -> None:
    code, error = call.run("ADD", b"{" + b" " * (2 << 20))
    assert (code, error["code"]) == (1, 5)
    assert call.run("DEL", b"{" + b" " * (2 << 20)) == (0, None)


def test_hostile_callers_do_not_keep_others_from_being_answered(call: Call, serve: object) -> None:
    """600 connections that send nothing, endless requests, and none that begins as it should."""
    serve(lambda raw, _: _answer(raw))  # type: ignore[operator]
    call.wait = 30
    with contextlib.ExitStack() as held:
        for _ in range(600):
            held.enter_context(_connected(call.socket))
        endless = held.enter_context(_connected(call.socket))
        with pytest.raises(OSError):  # noqa: PT011 - it is closed, in whichever way
            endless.sendall(GREETING + bytes(1 << 24))
        assert call.run("ADD") == (0, None)


def _answer(raw: bytes) -> bytes:
    try:
        parse_request(raw)
    except RequestError as error:
        return failure(error)
    return success()


def _connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.connect(str(path))
    made.settimeout(30)
    return made
