"""Reading for one client, the census, and where the server may listen; no Kafka."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enrich.runtime.settings import SettingsError
from streams.hubble import server as server_module
from streams.hubble.bounded_reader import BoundedReader, ClientGoneError
from streams.hubble.census import HOUR_S, Census
from streams.hubble.server import Certificates, Renewed, check_address, start_server
from streams.kafka.connection import ReadError
from streams.kafka.records import Record
from tests.streams.observing.test_observe import make_value


class Topic:
    """A topic of one partition, of which retention has removed the first records."""

    def __init__(self, first: int, end: int) -> None:
        self.first, self.end, self.next, self.asked = first, end, 0, 0
        self.is_away = False

    def bounds(self) -> dict[int, tuple[int, int]]:
        self.asked += 1
        if self.is_away:
            raise ReadError("Kafka cannot be reached")
        return {0: (self.first, self.end)}

    def at_time(self, timestamp_ms: int) -> dict[int, int]:
        return {0: self.first}

    def start(self, offsets: Mapping[int, int]) -> None:
        self.next = offsets[0]

    def take(self, most: int, wait_s: float) -> list[Record]:
        begin, self.next = max(self.next, self.first), self.end
        return [Record(0, offset, b"", b"", 0) for offset in range(begin, self.end)]

    def skip(self, partitions: Any) -> None:
        raise AssertionError

    def ended(self) -> frozenset[int]:
        return frozenset()


def test_what_retention_has_removed_before_a_slow_client_read_it_is_counted() -> None:
    topic = Topic(0, 10)
    reader = BoundedReader(topic, lambda: True)
    reader.start({0: 4})
    assert len(reader.take(100, 0)) == 6
    assert (reader.removed, topic.asked) == (0, 0)
    topic.first, topic.end = 25, 30
    assert len(reader.take(100, 0)) == 5
    assert reader.removed == 15
    topic.end = 31
    reader.take(100, 0)
    assert reader.removed == 15, "counted once"


def test_a_client_that_has_gone_ends_the_reading_and_kafka_that_is_away_is_told() -> None:
    active, now = [True], [0.0]
    topic = Topic(0, 0)
    reader = BoundedReader(topic, lambda: active[0], lambda: now[0])
    reader.start({0: 0})
    assert reader.take(1, 0) == []
    topic.is_away = True
    assert reader.take(1, 0) == [], "a moment of silence means nothing"
    now[0] = 6.0
    with pytest.raises(ReadError):
        reader.take(1, 0)
    active[0] = False
    with pytest.raises(ClientGoneError):
        reader.take(1, 0)


def test_the_census_counts_and_forgets() -> None:
    now = [10_000.0]
    census = Census("c1", lambda: now[0])
    for at in range(120):
        census.add_flow(make_value(), 9_880.0 + at)
    census.add_flow(make_value(cluster="c2", node_name="n2"), now[0])
    census.add_flow(b"no flow", now[0])
    census.add_status(b'{"type":"tally","cluster":"c1","node":"n3"}', now[0] - 300)
    census.add_status(b'{"type":"tally","cluster":"c2","node":"n4"}', now[0])
    census.add_status(b"\xff", now[0])
    assert census.seen == 120
    assert census.rate() == 1.0
    assert census.namespaces() == [("c1", "back"), ("c1", "shop")]
    assert [(one.name, one.flows, one.is_alive(now[0])) for one in census.nodes()] == [
        ("n1", 120, True), ("n3", 0, False),
    ]  # fmt: skip
    now[0] += HOUR_S + 1
    census.forget()
    assert census.nodes() == []
    assert census.namespaces() == []
    assert census.rate() == 0.0


def test_the_rate_does_not_depend_on_the_order_of_times_nor_on_clocks_that_are_ahead() -> None:
    now = [10_000.0]
    census = Census(clock=lambda: now[0])
    census.add_flow(make_value(node_name="ahead"), 1e9)
    for at in (9_990.0, 7_000.0):  # two partitions, one after the other
        for _ in range(59):
            census.add_flow(make_value(), at)
    assert census.rate() == 1.0
    now[0] += 1_000
    for _ in range(60):
        now[0] += 1
        census.add_flow(make_value(), now[0])
    assert census.rate() == 1.0
    now[0] += 200
    assert [one.is_alive(now[0]) for one in census.nodes()] == [False, False]
    now[0] += HOUR_S
    census.forget()
    assert census.nodes() == []


def test_names_that_are_none_are_not_kept() -> None:
    census = Census()
    census.add_flow(make_value(node_name="n" * 254, src={"namespace": "s" * 254}, dest={"namespace": "ok"}), 1e12)
    census.add_flow(make_value(cluster="c" * 254), 1e12)
    assert [one.name for one in census.nodes()] == ["n1"]
    assert census.namespaces() == [("c1", "ok")]


def test_names_of_a_flood_are_bounded() -> None:
    census = Census()
    for number in range(25_000):
        census.add_flow(make_value(node_name=f"n{number}", src={"namespace": f"ns{number}", "pod_name": "p"}), 1e12)
    assert len(census.nodes()) == 20_000
    assert len(census.namespaces()) <= 20_000


@pytest.mark.parametrize("address", ["0.0.0.0:4245", "[::]:4245", "10.0.0.1:4245", "example.org:4245"])
def test_an_open_address_is_refused_without_certificates(address: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="loopback"):
        check_address(address, None)
    check_address(address, Certificates(tmp_path, tmp_path, tmp_path))


@pytest.mark.parametrize("address", ["4245", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        check_address(address, None)


def test_an_address_that_is_taken_is_said() -> None:
    server, port = start_server("127.0.0.1:0", [], 1, None)
    with pytest.raises(OSError, match="WEIR_HUBBLE"):
        start_server(f"127.0.0.1:{port}", [], 1, None)
    server.stop(0)


def test_certificates_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    for name in ("certificate", "key", "ca"):
        (tmp_path / name).touch()
    files = Certificates(tmp_path / "certificate", tmp_path / "key", tmp_path / "ca")
    with pytest.raises(SettingsError, match="empty"):
        start_server("127.0.0.1:0", [], 1, files)


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


def test_certificates_that_do_not_fit_are_refused_at_the_start_and_passed_over_later(tmp_path: Path) -> None:
    (own, key), (clients, other_key) = make_certificate(tmp_path, "own"), make_certificate(tmp_path, "clients")
    text = tmp_path / "text"
    text.write_text("no certificate")
    for files in (
        Certificates(text, key, clients),
        Certificates(own, other_key, clients),
        Certificates(own, key, text),
    ):
        with pytest.raises(SettingsError, match="WEIR_HUBBLE_CLIENT_CA cannot be used"):
            start_server("127.0.0.1:0", [], 1, files)
    renewed = Renewed(Certificates(own, key, clients))
    assert renewed.renew() is None, "nothing has changed"
    kept = key.read_bytes()
    key.write_bytes(other_key.read_bytes())
    assert renewed.renew() is None, "half of a new pair"
    key.write_bytes(kept)
    assert renewed.renew() is None
    clients.write_bytes(own.read_bytes())
    assert renewed.renew() is not None


def test_a_connection_without_a_certificate_is_soon_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "grpc.server_handshake_timeout_ms"
    options = [(option, 300 if option == name else value) for option, value in server_module._OPTIONS]
    monkeypatch.setattr(server_module, "_OPTIONS", options)
    files = Certificates(*make_certificate(tmp_path, "own"), tmp_path / "own.crt")
    server, port = start_server("127.0.0.1:0", [], 1, files)
    with socket.create_connection(("127.0.0.1", port), timeout=240) as connection:
        assert connection.recv(1) == b"", "closed, and not open for the two minutes of gRPC's default"
    server.stop(0)
