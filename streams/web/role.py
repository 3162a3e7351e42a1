"""The role `web`: it checks its settings, follows Kafka, and serves the page until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from typing import Final

import structlog
import uvicorn

from enrich.diagnosis.rights import Needs
from enrich.runtime.listening import is_loopback, split_address
from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.renewed_certificate import RenewedCertificate
from enrich.runtime.settings import SettingsError
from enrich.runtime.token_gate import TokenGate
from enrich.sources.token_review import flows_reviewer, users_reviewer
from streams.kafka.followed import WatchedThread
from streams.kafka.open_transactions import Suspect
from streams.kafka.reading import TopicReader, reader_group
from streams.metrics.web import WebMetrics
from streams.roles.running_role import RunningRole, run_role
from streams.settings import Settings
from streams.web.answers import Answers
from streams.web.app import STATIC, Page
from streams.web.askers import Askers
from streams.web.feed import FlowFeed
from streams.web.firing import FiringAlerts
from streams.web.front_proxy import ANY_NAME, FrontProxy, ProxyProtocol
from streams.web.guard import PageGuard, allowed_names
from streams.web.map_question import MapQuestion
from streams.web.past import PastQuestions

log = structlog.get_logger("kubeweir.streams")

LIBRARIES: Final = STATIC / "vendor"
_MAX_CONNECTIONS: Final = 256
_UNSENT_MS: Final = 20_000
"""After so long the kernel gives up a connection whose browser takes nothing."""
_MAX_REQUEST: Final = 32 << 10
_KEPT_ANSWERS: Final = 8192
_STOP_S: Final = 2


def run_web(settings: Settings, stop: threading.Event) -> int:
    """Run until ``stop``; return the exit code. Raises StopServiceError, SettingsError."""
    check_web(settings)
    return run_role("web", settings, stop, (), _work)


def check_web(settings: Settings) -> tuple[str, int]:
    """Return the address of the page. Raises SettingsError for settings that contradict each other, and
    StopServiceError if the page's libraries are missing."""
    address = split_address(settings.web)
    if address is None or not address[0]:
        raise SettingsError(f"WEIR_WEB={settings.web!r}: must be host:port, such as 127.0.0.1:9700")
    if (settings.web_certificate is None) != (settings.web_key is None):
        raise SettingsError("WEIR_WEB_CERTIFICATE and WEIR_WEB_KEY must be set together")
    allowed_names(settings.web_hosts)
    _check_proxy(settings)
    if not is_loopback(address[0]):
        if settings.web_auth == "none":
            raise SettingsError(
                f"WEIR_WEB={settings.web}: without authentication the page is served on a loopback address only. Set "
                "WEIR_WEB_AUTH=kubernetes, or use 127.0.0.1 and reach it by kubectl port-forward"
            )
        if settings.web_certificate is None:
            raise SettingsError(
                f"WEIR_WEB={settings.web}: beyond a loopback address the page needs WEIR_WEB_CERTIFICATE and "
                "WEIR_WEB_KEY: tokens must not travel in plain text"
            )
    if not LIBRARIES.is_dir():
        raise StopServiceError(
            f"{LIBRARIES} is missing: deploy/web/libraries downloads the libraries of the page", Exit.UNABLE
        )
    return address


def _check_proxy(settings: Settings) -> None:
    """Raise SettingsError if the settings of a front proxy contradict each other."""
    if (settings.web_proxy_ca is None) != (not settings.web_proxy_names):
        raise SettingsError(
            "WEIR_WEB_PROXY_CA and WEIR_WEB_PROXY_NAMES must be set together: an authority may have signed "
            f"certificates of others than the proxy (WEIR_WEB_PROXY_NAMES={ANY_NAME} believes all of them)"
        )
    if settings.web_proxy_ca is not None and (settings.web_auth == "none" or settings.web_certificate is None):
        raise SettingsError(
            "WEIR_WEB_PROXY_CA: it takes WEIR_WEB_AUTH=kubernetes, WEIR_WEB_CERTIFICATE and WEIR_WEB_KEY: a proxy is "
            "known by its certificate"
        )


def _find_cluster(role: RunningRole) -> None:
    """Find out whose records the API server can answer for: other clusters may share the topics. Raises
    StopServiceError."""
    role.find_cluster()
    if not role.settings.cluster and not role.stop.is_set():
        raise StopServiceError(
            "WEIR_WEB_AUTH=kubernetes: the cluster's id is not known, so it is not known either whose records the API "
            "server can answer for: set WEIR_CLUSTER",
            Exit.USAGE,
        )


def _work(role: RunningRole) -> None:
    address = check_web(role.settings)
    if role.settings.web_auth == "kubernetes":
        _find_cluster(role)
    settings = role.settings
    metrics = WebMetrics(role.registry)
    topics = settings.topics
    read = (topics.flows, topics.denied, topics.journal, topics.endpoints, topics.pairs, topics.alert_state)
    names = frozenset(one.name for one in read)
    role.needs = Needs(reads=names, writes=frozenset(), groups=frozenset(map(reader_group, names)))
    askers, gate = Askers(), None
    if settings.web_auth == "kubernetes":
        gate = TokenGate(flows_reviewer(on_user=askers.note), max_kept=_KEPT_ANSWERS)

    def count_skipped(reason: str, count: int) -> None:
        metrics.skipped.labels(reason).inc(count)

    feed = FlowFeed(lambda: TopicReader(settings.connection(), topics.flows.name), count_skipped)
    past, pairs = PastQuestions(settings, settings.connection), MapQuestion(settings, settings.connection)
    firing = FiringAlerts(settings, settings.connection)
    certificate = _certificate(settings)
    context = _context(certificate)
    proxy = None
    if certificate is not None and settings.web_proxy_ca is not None:
        users = TokenGate(users_reviewer(), max_kept=_KEPT_ANSWERS)
        proxy = FrontProxy(certificate, settings.web_proxy_names, users)
    with _listening(address) as listener:
        log.info("the page is served", url=_url(settings, listener), auth=settings.web_auth)
        feed.start()
        role.stack.callback(feed.stop)
        role.monitor.watch(WatchedThread("the live view", lambda: feed.turns, (topics.flows.name,)))
        role.monitor.suspect(Suspect(lambda: True, reader_group(topics.flows.name), [topics.flows.name]))
        role.begin(feed.problem, role.monitor.problem)
        answers = Answers(metrics, gate, settings.cluster, proxy, askers)
        make_page = partial(Page, feed, past, pairs, firing, metrics, answers, settings.cluster)
        asyncio.run(_serve(settings, context, listener, make_page, role.stop))


def _certificate(settings: Settings) -> RenewedCertificate | None:
    """Return the certificate of the page, None if it speaks plain text."""
    if settings.web_certificate is None or settings.web_key is None:
        return None
    return RenewedCertificate("the page", settings.web_certificate, settings.web_key, settings.web_proxy_ca)


def _context(certificate: RenewedCertificate | None) -> ssl.SSLContext | None:
    """Return the TLS context of the page, which takes a renewed certificate into use; None: plain text. Raises
    StopServiceError."""
    try:
        return None if certificate is None else certificate.lasting_context()
    except OSError as error:
        raise StopServiceError(
            f"WEIR_WEB_CERTIFICATE, WEIR_WEB_KEY or WEIR_WEB_PROXY_CA cannot be used: {error}", Exit.USAGE
        ) from error


@contextlib.contextmanager
def _listening(address: tuple[str, int]) -> Iterator[socket.socket]:
    """Listen on an address for the block. Raises StopServiceError."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StopServiceError(f"WEIR_WEB={address[0]}:{address[1]}: {error}", Exit.USAGE) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it. Without it, a browser that is gone without a word holds its place for hours.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MS)
        try:
            listener.bind(place)
            listener.listen(128)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise StopServiceError(
                f"WEIR_WEB={address[0]}:{address[1]}: {error.strerror}", Exit.RUNNING if taken else Exit.USAGE
            ) from error
        yield listener


def _url(settings: Settings, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "http" if settings.web_certificate is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


class _Server(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


async def _serve(
    settings: Settings,
    context: ssl.SSLContext | None,
    listener: socket.socket,
    make_page: partial[Page],
    stop: threading.Event,
) -> None:
    page = make_page()
    config = uvicorn.Config(
        PageGuard(page.app, allowed_names(settings.web_hosts)), loop="asyncio", http=ProxyProtocol, ws="none",
        lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS, h11_max_incomplete_event_size=_MAX_REQUEST,
        timeout_graceful_shutdown=_STOP_S, ssl_context_factory=None if context is None else lambda *_: context,
    )  # fmt: skip
    server = _Server(config)

    async def end_at_stop() -> None:
        while not stop.is_set():  # noqa: ASYNC110 - signal handlers and other threads set it
            await asyncio.sleep(0.1)
        page.end()
        server.should_exit = True

    ending = asyncio.create_task(end_at_stop())
    await server.serve(sockets=[listener])
    ending.cancel()
