"""The role `hubble` on a real Kafka, asked by the unmodified `hubble` command and by a client of our own."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import orjson
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from enrich.wire.topics import topics
from streams.cli.main import command as weir
from streams.hubble.messages import message
from streams.kafka.topics import prepare_topics
from tests.kafka.batches import write_manifests
from tests.kafka.hubble_client import HubbleClient
from tests.kafka.hubble_flows import FLAGS, Flag, records, rfc3339, start, window, write_records
from tests.kafka.site import PATIENCE_S, Service, Site, until


class Identity(NamedTuple):
    """A certificate, which is its own authority, and its key."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make one for localhost."""
        folder.mkdir()
        found = cls(folder / "tls.crt", folder / "tls.key")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
        command += ["-out", str(found.certificate), "-keyout", str(found.key)]
        subprocess.run(command, check=True, capture_output=True)
        return found


# The first test that needs the hubble command may have to wait until it is built.
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
NO_GO = 3
"""Exit code of deploy/local/binaries where there is no Go, or one that is too old."""


@pytest.fixture(scope="module")
def site(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Flows of two clusters, some minutes ago."""
    folder = tmp_path_factory.mktemp("hubble")
    write_manifests(folder / "manifests")
    made = Site(broker, f"h{time.monotonic_ns()}", folder)
    names = topics(made.prefix, 4)
    assert prepare_topics(made.connection, [names.flows, names.denied, names.status], 0, threading.Event())
    write_records(made)
    yield made
    made.end()


@pytest.fixture(scope="module")
def role(site: Site) -> Service:
    """The role, of every cluster."""
    return site.start("hubble", "--alone", WEIR_HUBBLE="127.0.0.1:0", WEIR_CLUSTER="*", WEIR_HUBBLE_STREAMS="3")


@pytest.fixture(scope="module")
def port(role: Service) -> int:
    """The port of the API of a role that is ready."""
    found = int(role.wait_for("serving Hubble's API")["port"])
    until(lambda: role.get("/readyz", "hubble")[0] == 200, "the role to be ready")
    return found


@pytest.fixture
def client(role: Service, port: int) -> Iterator[HubbleClient]:
    """A client, after whose test nobody reads any more: a call that is cancelled keeps its place for a moment."""
    made = HubbleClient(port)
    yield made
    made.close()
    nobody = "\nkubeweir_streams_hubble_streams 0.0\n"
    until(lambda: nobody in role.get("/metrics", "hubble")[1], "the places of all clients")


@pytest.fixture(scope="module")
def hubble() -> Path:
    """The unmodified command of Cilium's Go module, which is built, or waited for, if it is not there yet."""
    program = ROOT / "deploy/local/binaries"
    built = subprocess.run([program, "hubble"], stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode == NO_GO:
        pytest.skip("needs Go 1.26, to build the hubble command (deploy/local/binaries hubble)")
    assert built.returncode == 0, "deploy/local/binaries says above why the hubble command could not be built"
    return Path(built.stdout.strip()) / "hubble"


def run_hubble(hubble: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = {**os.environ, "HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}
    command = [str(hubble), *arguments, "--server", f"127.0.0.1:{port}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=home)


def ids(lines: str) -> list[str]:
    return [found["flow"]["uuid"] for line in lines.splitlines() if "flow" in (found := orjson.loads(line))]


def observe(site: Site, *arguments: str) -> list[str]:
    env = {"WEIR_KAFKA": site.broker, "WEIR_TOPIC_PREFIX": site.prefix}
    done = CliRunner().invoke(weir, ["observe", "-o", "json", *arguments], env=env)
    assert done.exit_code == 0, done.output
    return [orjson.loads(line)["id"] for line in done.stdout.splitlines()]


def timed(words: Sequence[str]) -> list[str]:
    return [rfc3339(int(word.removeprefix("TIME-"))) if word.startswith("TIME-") else word for word in words]


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: "".join(flag.hubble) or flag.flag)
def test_each_flag_of_hubble_observe_shows_what_weir_observe_shows(
    site: Site, port: int, hubble: Path, flag: Flag
) -> None:
    of_hubble, of_weir = window(flag)
    done = run_hubble(hubble, port, "observe", "-o", "json", *of_hubble, *timed(flag.hubble))
    assert done.returncode == 0, done.stderr
    expected = observe(site, *of_weir, *timed(flag.weir))[: 5 if flag.flag == "--first" else None]
    assert ids(done.stdout) == expected
    assert len(expected) == flag.flows


def test_forty_flags_are_compared() -> None:
    assert len({flag.flag for flag in FLAGS}) >= 40
    assert len(records()) == FLAGS[0].flows


def test_the_command_shows_status_nodes_namespaces_and_policies(port: int, hubble: Path) -> None:
    def status_of_all() -> str | None:
        done = run_hubble(hubble, port, "status")
        return done.stdout if done.returncode == 0 and "Flows: 38" in done.stdout else None

    status = until(status_of_all, "the status of 38 flows")
    assert "Healthcheck (via 127.0.0.1" in status
    assert ": Ok" in status
    nodes = run_hubble(hubble, port, "list", "nodes")
    assert [line.split()[0] for line in nodes.stdout.splitlines()[1:]] == ["n1", "n2", "n9"], nodes.stderr
    namespaces = run_hubble(hubble, port, "list", "namespaces")
    assert {"back", "default", "shop"} <= set(namespaces.stdout.split()), namespaces.stderr
    shown = run_hubble(hubble, port, "observe", "--all", "--print-policy-names", "--print-node-name")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert sum("DENIED BY default-deny (NetworkPolicy)" in line for line in lines) == 8
    assert sum("DENIED BY no-metadata (ClusterNetworkPolicy)" in line for line in lines) == 3
    assert sum("AUDITED BY default-deny (NetworkPolicy)" in line for line in lines) == 2
    assert sum("ALLOWED BY api-from-web (NetworkPolicy)" in line for line in lines) == 19
    assert any("[n2]" in line and "(500 packets)" in line for line in lines)


def test_a_filter_that_no_record_can_answer_is_refused_by_its_name(port: int, hubble: Path) -> None:
    for flags, name in (
        (("--http-method", "get"), "http_method"),
        (("--from-fqdn", "cilium.io"), "source_fqdn"),
        (("--tcp-flags", "syn"), "tcp_flags"),
        (("--type", "trace"), "event_type"),
        (("--verdict", "REDIRECTED"), "verdict"),
        (("--label", "team=red"), "label"),
        (("--identity", "12345"), "identity"),
        (("--not", "--node-label", "zone=a"), "node_labels"),
        (("--cel-expression", "true"), "experimental"),
        (("--since", "2100-01-01T00:00:00Z"), "since"),
    ):
        done = run_hubble(hubble, port, "observe", *flags)
        assert done.returncode == 1
        assert "InvalidArgument" in done.stderr, (flags, done.stderr)
        assert name in done.stderr, (flags, done.stderr)


def loss(**fields: Any) -> bytes:
    return orjson.dumps({"cluster": "c1", "node": "n1", "ring": "r", "reason": "ring_full", **fields})


def test_what_comes_is_followed_and_losses_are_told(site: Site, client: HubbleClient) -> None:
    answers = client.flows(number=2, follow=True)
    past = [next(answers).flow.uuid for _ in range(2)]
    assert past == [record["id"] for record in records()[-2:]]
    producer = Producer(site.connection)
    found: dict[bool, Any] = {}

    def receive() -> None:
        # Each is sent again until both have come, so there may be several of one kind before the other.
        while len(found) < 2:
            answer = next(answers)
            found.setdefault(answer.HasField("lost_events"), answer)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()

    def send() -> bool:
        # The answer begins where the topics ended when it was asked for, which is before the past was sent.
        producer.produce(f"{site.prefix}.flows", orjson.dumps({**records()[0], "id": "new-1"}), "shop/web-0")
        producer.produce(f"{site.prefix}.status", loss(type="lost", verdicts=7), "n1")
        assert producer.flush(PATIENCE_S) == 0
        thread.join(2)
        return not thread.is_alive()

    try:
        until(send, "a flow and a loss")
        flow, lost = found[False], found[True]
        assert flow.flow.uuid == "new-1"
        assert (lost.node_name, lost.lost_events.num_events_lost, lost.lost_events.source) == ("n1", 7, 3)
        since = {"since": message("Timestamp")(seconds=int(start().timestamp()))}
        (told,) = [one for one in client.flows(**since) if one.HasField("lost_events")]
        assert told.lost_events.num_events_lost % 7 == 0
    finally:
        answers.cancel()  # type: ignore[attr-defined]  # it is a call of gRPC, too


def status_of(answers: Iterator[Any]) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as raised:
        list(answers)
    return raised.value.code(), raised.value.details()


def test_more_clients_than_are_allowed_are_refused_and_one_that_goes_gives_its_place(client: HubbleClient) -> None:
    following = [client.flows(number=1, follow=True) for _ in range(3)]
    for answers in following:
        next(answers)
    code, text = status_of(client.flows(number=1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "WEIR_HUBBLE_STREAMS" in text
    following[0].cancel()  # type: ignore[attr-defined]  # it is a call of gRPC, too

    def is_answered() -> bool:
        try:
            return len([one for one in client.flows(number=1) if one.HasField("flow")]) == 1
        except grpc.RpcError:
            return False

    until(is_answered, "the place of the client that has gone")
    for answers in following[1:]:
        answers.cancel()  # type: ignore[attr-defined]  # as above


def test_masks_and_requests_that_contradict_themselves(client: HubbleClient) -> None:
    mask = message("FieldMask")(paths=["source.pod_name", "verdict"])
    (shown,) = [one.flow for one in client.flows(number=1, first=True, field_mask=mask) if one.HasField("flow")]
    assert (shown.source.pod_name, shown.source.namespace, shown.verdict, shown.uuid) == ("web-0", "", 1, "")
    for fields, text in (
        ({"field_mask": message("FieldMask")(paths=["source.nothing"])}, "source.nothing"),
        ({"first": True, "follow": True, "number": 1}, "first and follow"),
        ({"number": 10_001}, "number"),
        ({"first": True}, "first needs a number"),
        ({"since": message("Timestamp")(seconds=-1)}, "since"),
        ({"extensions": message("Unused")()}, "extensions"),
    ):
        code, details = status_of(client.flows(**fields))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text in details
    code, _ = status_of(client.flows(whitelist=[message("FlowFilter")(uuid=["x" * 1000] * 400)]))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than a request may be"


def test_clients_need_a_certificate_where_the_address_is_open(site: Site, tmp_path: Path) -> None:
    own, clients = Identity.make(tmp_path / "own"), Identity.make(tmp_path / "clients")
    tls = {
        "WEIR_HUBBLE_CERTIFICATE": str(own.certificate), "WEIR_HUBBLE_KEY": str(own.key),
        "WEIR_HUBBLE_CLIENT_CA": str(clients.certificate),
    }  # fmt: skip
    service = site.start("hubble", "--alone", WEIR_HUBBLE="0.0.0.0:0", WEIR_CLUSTER="c1", **tls)
    port = int(service.wait_for("serving Hubble's API", encrypted=True)["port"])

    def nodes_of(identity: Identity | None, timeout_s: float = 120.0) -> list[str]:
        key, chain = (identity.key.read_bytes(), identity.certificate.read_bytes()) if identity else (None, None)
        client = HubbleClient(port, grpc.ssl_channel_credentials(own.certificate.read_bytes(), key, chain))
        try:
            return [node.name for node in client.ask("GetNodes", timeout_s).nodes]
        finally:
            client.close()

    until(lambda: service.get("/readyz", "hubble")[0] == 200, "the role to be ready")
    until(lambda: nodes_of(clients) == ["n1", "n2"], "the nodes of its own cluster")
    for stranger in (None, own):
        with pytest.raises(grpc.RpcError):
            nodes_of(stranger, timeout_s=2)
    assert service.stop() == 0
