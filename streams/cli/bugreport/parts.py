"""The parts of a bug report: settings without secrets, versions, what commands say, and what the metrics ports say."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Final

import anyio
import urllib3

from enrich.runtime.connection import MECHANISMS, PROTOCOLS
from enrich.runtime.version import version_text
from streams.cli.runs import Bounds, TooMuchPrintedError, run_whole
from streams.config.url_text import shown

_MAX_BYTES: Final = 16 << 20
"""The most of one part that is kept."""
_COMMAND_S: Final = 90.0
_PAGE_S: Final = 3.0
_FIRST_PORT, _LAST_PORT = 9701, 9710
HIDDEN: Final = "(hidden)"
_SECRET: Final = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|EXTENSIONS|_KEY$")
_WORDS: Final = (
    *PROTOCOLS, *MECHANISMS, "debug", "info", "warning", "error", "json", "console", "auto", "none", "closed", "open",
    "unnamed", "gke", "kubernetes", "namespace", "workload", "all", "true", "false", "yes", "no", "kubeweir", "stdout",
    "file", "[-*.0-9]*",
)  # fmt: skip
_PLAIN: Final = re.compile("|".join(_WORDS))
_NAME: Final = re.compile(r"[a-z0-9-]+", re.IGNORECASE)


def settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of kubeweir in an environment, by variable, without what is secret.

    The name of a variable says whether it is secret; the path of a file with a secret is shown. Of an address only
    scheme, host and port are shown, and of WEIR_KAFKA_EXTRA the names of its settings."""
    return {name: _shown(name, env[name]) for name in sorted(env) if name.startswith("WEIR_")}


def _shown(name: str, value: str) -> str:
    if not name.endswith("_FILE") and _SECRET.search(name) and name != "WEIR_KAFKA_KEY":
        return HIDDEN
    if name == "WEIR_KAFKA_EXTRA":
        return ",".join(f"{part.partition('=')[0].strip()}={HIDDEN}" for part in value.split(","))
    parts = value.split(",")
    return ",".join(shown(part.strip()) if "://" in part else part for part in parts)


def free_texts(shown_settings: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of settings that may name something: all but numbers, switches and words of kubeweir."""
    for value in shown_settings.values():
        for part in value.split(","):
            text = part.strip()
            if "://" not in text and HIDDEN not in text and not _PLAIN.fullmatch(text):
                yield text


def versions() -> dict[str, Any]:
    """Return the versions of kubeweir, Python, the system, and the libraries that kubeweir names."""
    found = {"kubeweir": version_text(), "python": platform.python_version(), "system": platform.platform()}
    return {**found, "libraries": dict(_libraries())}


def _libraries() -> Iterator[tuple[str, str]]:
    try:
        needed = requires("kubeweir") or []
    except PackageNotFoundError:
        return
    for requirement in needed:
        name = _NAME.match(requirement)
        if name is not None:
            try:
                yield name[0], version(name[0])
            except PackageNotFoundError:
                yield name[0], "not installed"


def answer(words: Sequence[str], env: Mapping[str, str]) -> Any:
    """Return the JSON that a command of weir prints; a list of what it says instead if it prints none."""
    try:
        ended, text = anyio.run(run_whole, words, env, b"", Bounds(_COMMAND_S, _MAX_BYTES))
    except TooMuchPrintedError:
        return [f"more than {_MAX_BYTES >> 20} MiB were printed"]
    if ended.is_late:
        return [f"not answered within {_COMMAND_S:.0f} s"]
    try:
        return json.loads(text)
    except ValueError:
        return ended.lines or ["nothing was printed"]


def addresses(given: Sequence[str]) -> list[str]:
    """Return the addresses of metrics ports to look at: those given, and the usual ones of this machine."""
    return [*given, *(f"http://127.0.0.1:{port}" for port in range(_FIRST_PORT, _LAST_PORT + 1))]


def pages(address: str) -> Iterator[tuple[str, str]]:
    """Yield the pages of a metrics port, each with its text. Raises urllib3's errors and OSError."""
    retries = urllib3.Retry(0, redirect=False)
    with urllib3.PoolManager(timeout=_PAGE_S, retries=retries) as pool:
        for page in ("readyz", "metrics"):
            response = pool.request("GET", f"{address.rstrip('/')}/{page}", preload_content=False)
            try:
                text = response.read(_MAX_BYTES).decode(errors="replace")
            finally:
                response.close()
            yield page, text if page == "metrics" else f"{response.status}\n{text}"
