"""Apache Kafka (KRaft) as the demo and the tests run it: one process, or several that form a cluster.

Every process is a broker and a controller. The processes of a cluster keep three replicas of each partition and
acknowledge a record once two have it, so that any one of three may end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from broker_security import authorizer_properties, secure_properties, token_properties
from ports import free_port

VERSION = "4.3.1"
CACHE = Path(os.environ.get("KUBEWEIR_CACHE", "/var/cache/kubeweir"))
POM = Path(__file__).with_name("kafka-pom.xml")
JARS = CACHE / f"kafka-{VERSION}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:8]}"
"""The folder to which deploy/local/setup downloads the jars."""
CLASSES = JARS.with_name(f"{JARS.name}.jsa")
"""The loaded classes of a broker (deploy/local/kafka_classes.py), with which a start takes half of the CPU. Java
ignores a file that does not fit its version or the jars."""
TIMEOUT_S = 60
FORMATTED = {
    secure: JARS.with_name(f"{JARS.name}.{name}.checkpoint") for secure, name in ((False, "plain"), (True, "secure"))
}
"""What Kafka's own tool writes into a new storage, without and with the user weir: the same for each broker."""
LOGGING = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")
_CHECKPOINT = "bootstrap.checkpoint"
_HEAP_ALONE, _HEAP_OF_SEVERAL = "512m", "224m"


@dataclass(frozen=True)
class Broker:
    """One process of Apache Kafka."""

    number: int
    folder: Path
    port: int
    controller_port: int

    @property
    def properties(self) -> Path:
        return self.folder / "server.properties"


@dataclass(frozen=True)
class Options:
    """What the brokers of a folder have in common."""

    host: str = "127.0.0.1"
    secure: bool = False
    authorizer: bool = False
    tls_port: int = 0
    """Of the first broker; each other one has the next port."""
    jwks: str = ""


def layout(folder: Path, ports: Sequence[int]) -> list[Broker]:
    """Return the brokers of a folder by the ports for clients. One alone uses the folder itself, several one each."""
    if len(ports) == 1:
        return [Broker(1, folder, ports[0], free_port())]
    return [Broker(number, folder / str(number), port, free_port()) for number, port in enumerate(ports, 1)]


def prepare(folder: Path, brokers: Sequence[Broker], options: Options) -> None:
    """Write the properties of each broker, and format its storage if that is not done."""
    folder.mkdir(parents=True, exist_ok=True)
    common = "".join(
        (
            replication_properties(len(brokers)),
            session_properties(brokers),
            secure_properties(folder, options.host) if options.secure else "",
            authorizer_properties() if options.authorizer else "",
            token_properties(options.jwks) if options.jwks else "",
        )
    )
    voters = ",".join(f"{one.number}@127.0.0.1:{one.controller_port}" for one in brokers)
    for broker in brokers:
        broker.folder.mkdir(parents=True, exist_ok=True)
        broker.properties.write_text(broker_properties(broker, voters, options) + common)
    cluster_id = secrets.token_urlsafe(16)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: format_storage(one, cluster_id, secure=options.secure), brokers))


def broker_properties(broker: Broker, voters: str, options: Options) -> str:
    """Return the properties that each broker has for itself.

    By default, an idle controller writes and flushes a record that says nothing twice a second. That was a third of the
    CPU of an idle broker, and a slow disk keeps all other work waiting for it.
    """
    host, tls_port = options.host, options.tls_port and options.tls_port + broker.number - 1
    clients = "SASL_SSL" if options.secure else "PLAINTEXT"
    addresses = f"{clients}://{host}:{broker.port}" + (f",SSL://{host}:{tls_port}" if tls_port else "")
    protocols = f"{clients}:{clients}" + (",SSL:SSL" if tls_port else "")
    return f"""process.roles=broker,controller
node.id={broker.number}
listeners={addresses},CONTROLLER://127.0.0.1:{broker.controller_port}
advertised.listeners={addresses}
inter.broker.listener.name={clients}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}
controller.listener.names=CONTROLLER
controller.quorum.voters={voters}
log.dirs={broker.folder / "data"}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
log.segment.bytes=67108864
num.network.threads=2
num.io.threads=2
metadata.max.idle.interval.ms=0
"""


def replication_properties(brokers: int) -> str:
    """Return the properties of replication: three replicas of which two must have a record, or one of one.

    A broker that hangs is out of a cluster after some seconds: Kafka's own 9 s and 30 s are for larger machines. The
    cleaner of compacted topics takes 128 MB of the heap by default. On a machine with too few processors, controllers
    elect one another for minutes before one stays leader; by default, a broker that waits for that ends after 60 s.
    """
    replicas = min(brokers, 3)
    least = 2 if replicas == 3 else 1
    text = f"""offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={least}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={least}
"""
    if brokers == 1:
        return text
    return f"""{text}default.replication.factor={replicas}
min.insync.replicas={least}
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
replica.lag.time.max.ms=8000
controller.quorum.fetch.timeout.ms=4000
initial.broker.registration.timeout.ms=600000
log.cleaner.dedupe.buffer.size=8388608
"""


def session_properties(brokers: Sequence[Broker]) -> str:
    """Return how long a broker that is alone may stand still; empty for Kafka's own 9 s.

    After these 9 s it fences itself, and so takes every partition and group from all of its clients for seconds,
    although no other broker could take them over. One that is started again after a kill is not registered before the
    session of its predecessor has ended, so it keeps the default.
    """
    is_new = not is_formatted(brokers[0])
    return "broker.session.timeout.ms=3600000\n" if len(brokers) == 1 and is_new else ""


def is_formatted(broker: Broker) -> bool:
    return (broker.folder / "data" / "meta.properties").exists()


def format_storage(broker: Broker, cluster_id: str, *, secure: bool) -> None:
    """Format the broker's storage if it is new.

    Kafka's tool takes half as much CPU as the broker's own start. So what it has written once is used again, with the
    ids of the cluster, the folder and the broker.
    """
    data, kept = broker.folder / "data", FORMATTED[secure]
    if is_formatted(broker):
        return
    if kept.exists():
        data.mkdir(exist_ok=True)
        shutil.copyfile(kept, data / _CHECKPOINT)
        ids = f"node.id={broker.number}\ndirectory.id={secrets.token_urlsafe(16)}\ncluster.id={cluster_id}\n"
        (data / "meta.properties").write_text(f"version=1\n{ids}")
        return
    # Option and value are one argument: an id may begin with a dash and would be read as an option.
    command = java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(broker.properties))
    if secure:
        command += ["--add-scram", "SCRAM-SHA-512=[name=weir,password=weir]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"kafka: the storage in {data} cannot be formatted: {done.stdout}{done.stderr}")
    with contextlib.suppress(OSError):  # the cache may belong to another user
        unfinished = kept.with_suffix(f".{os.getpid()}-{broker.number}")
        shutil.copyfile(data / _CHECKPOINT, unfinished)
        unfinished.replace(kept)


def start_brokers(brokers: Sequence[Broker], host: str) -> None:
    """Start brokers in the background, and wait until each accepts connections."""
    started = [_spawn(one, alone=len(brokers) == 1) for one in brokers]
    deadline = time.monotonic() + TIMEOUT_S
    for broker, process in zip(brokers, started, strict=True):
        while not _accepts(host, broker.port):
            if process.poll() is not None:
                _give_up(started, f"the broker ended while starting, see {broker.folder / 'broker.log'}")
            if time.monotonic() > deadline:
                _give_up(
                    started,
                    f"the broker did not accept connections within {TIMEOUT_S} s, see {broker.folder / 'broker.log'}",
                )
            time.sleep(0.1)


def _spawn(broker: Broker, *, alone: bool) -> subprocess.Popen[bytes]:
    with (broker.folder / "broker.log").open("wb") as log:
        process = subprocess.Popen(
            server(broker.folder, alone=alone), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    (broker.folder / "pid").write_text(str(process.pid))
    return process


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 0.2).close()
    except OSError:
        return False
    return True


def _give_up(started: Sequence[subprocess.Popen[bytes]], problem: str) -> None:
    for process in started:
        process.kill()
    sys.exit(f"kafka: {problem}")


def folders_of(folder: Path) -> list[Path]:
    """Return the folder of each broker that was prepared in a folder."""
    return [one.parent for one in sorted([*folder.glob("server.properties"), *folder.glob("*/server.properties")])]


def stop_broker(folder: Path) -> None:
    """Kill the broker that was started with a folder of its own, and wait for its end."""
    if is_running(folder):
        broker = os.pidfd_open(int((folder / "pid").read_text()))
        signal.pidfd_send_signal(broker, signal.SIGKILL)
        # A pidfd becomes readable when the process's last thread has ended; its sockets are closed by then.
        select.select([broker], [], [], TIMEOUT_S)
        os.close(broker)
    (folder / "pid").unlink(missing_ok=True)


def is_running(folder: Path) -> bool:
    """Return whether the process id in the folder is a running broker; the kernel may have reused the id."""
    try:
        pid = int((folder / "pid").read_text())
        return os.fsencode(folder / "server.properties") in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False


def server(folder: Path, *, alone: bool) -> list[str]:
    """Return the command that runs the broker that was prepared in a folder."""
    properties = str(folder / "server.properties")
    return java("kafka.Kafka", properties, heap=_HEAP_ALONE if alone else _HEAP_OF_SEVERAL)


def java(*words: str, heap: str = _HEAP_ALONE) -> list[str]:
    stored = [f"-XX:SharedArchiveFile={CLASSES}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"] if CLASSES.exists() else []
    options = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *stored, *LOGGING]
    return ["java", *options, "-cp", f"{JARS}/*", *words]


def is_free(port: int, host: str) -> bool:
    with socket.socket() as probe:
        # The broker sets this option too, so that connections of an earlier broker in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
