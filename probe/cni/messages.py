"""What ``weir-cni`` sends to the probe, and what the probe answers. ``weir_cni.c`` has the other end.

A request is the line ``weir-cni 1``, each variable CNI_* of the plugin's environment with a NUL behind it, one more
NUL, and the plugin's standard input. An answer is the line ``weir-cni 1 EXIT BYTES`` and the text for standard output.
Everything in a request is checked here: after :func:`parse_request`, names and addresses are what they say.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import orjson

GREETING: Final = b"weir-cni 1\n"
MAX_REQUEST: Final = (1 << 20) + (1 << 16)
"""Bytes of a request: the plugin sends at most a MiB of standard input, and an environment."""
TRY_AGAIN_LATER: Final = 11
INVALID_ENVIRONMENT: Final = 4
INVALID_CONFIGURATION: Final = 7
"""Codes of the CNI specification."""
NOT_ENFORCED: Final = 100
"""A code of our own, for CHECK: the interface is not under its pod's policy."""
COMMANDS: Final = ("ADD", "DEL", "CHECK")
_DEFAULT_VERSION: Final = "1.0.0"
_INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")
_VERSION: Final = re.compile(r"[0-9.]{1,16}")


class _Interface(msgspec.Struct):
    name: str = ""
    sandbox: str = ""


class _Address(msgspec.Struct):
    address: str
    interface: int | None = None


class _Result(msgspec.Struct):
    interfaces: list[_Interface] | None = None
    ips: list[_Address] | None = None


class RequestError(Exception):
    """A request cannot be answered as asked. The message says why; ``code`` is the CNI error code."""

    def __init__(self, message: str, code: int, advice: str = "") -> None:
        super().__init__(message)
        self.code, self.advice = code, advice


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the plugin."""

    command: str
    container: str
    """Id of the pod's sandbox."""
    interface: str
    """Name of the interface inside the pod's network namespace."""
    namespace: str
    """The pod's, in the API; empty if the runtime does not say it (for DEL only)."""
    pod: str
    uid: str
    """The UID that kubelet knows; empty with old runtimes. That of a static pod is not the one of its mirror pod."""
    addresses: tuple[str, ...] = ()
    """Those of the interface, as canonical text, by the result of the plugins before this one."""
    version: str = _DEFAULT_VERSION
    previous: dict[str, Any] | None = field(default=None, repr=False)
    """That result."""


def parse_request(raw: bytes) -> Request:
    """Parse and check a request. Raises RequestError."""
    if not raw.startswith(GREETING):
        raise RequestError("the request does not begin as one of weir-cni", INVALID_ENVIRONMENT)
    variables, separator, document = raw[len(GREETING) :].partition(b"\0\0")
    if not separator:
        raise RequestError("the request has no end of its variables", INVALID_ENVIRONMENT)
    env = dict(_variable(one) for one in variables.split(b"\0"))
    command = env.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise RequestError(f"CNI_COMMAND={command[:20]!r} is not ADD, DEL or CHECK", INVALID_ENVIRONMENT)
    container, interface = env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
    if not container or not _INTERFACE.fullmatch(interface):
        raise RequestError("CNI_CONTAINERID or CNI_IFNAME is missing or is not valid", INVALID_ENVIRONMENT)
    arguments = dict(pair.partition("=")[::2] for pair in env.get("CNI_ARGS", "").split(";"))
    request = Request(
        command=command,
        container=container,
        interface=interface,
        namespace=arguments.get("K8S_POD_NAMESPACE", ""),
        pod=arguments.get("K8S_POD_NAME", ""),
        uid=arguments.get("K8S_POD_UID", ""),
    )
    if command == "DEL":
        return request
    if not (request.namespace and request.pod):
        raise RequestError(
            "CNI_ARGS has no K8S_POD_NAMESPACE and K8S_POD_NAME",
            INVALID_ENVIRONMENT,
            "only a container runtime of Kubernetes can use weir-cni",
        )
    return _with_result(request, document, env.get("CNI_NETNS", ""))


def success(previous: dict[str, Any] | None = None) -> bytes:
    """Return the answer with which the plugin succeeds; ADD prints the previous result."""
    return _answer(0, b"" if previous is None else orjson.dumps(previous))


def failure(error: RequestError, version: str = _DEFAULT_VERSION) -> bytes:
    """Return the answer with which the plugin fails: it prints a CNI error object."""
    body = {"cniVersion": version, "code": error.code, "msg": str(error), "details": error.advice}
    return _answer(1, orjson.dumps(body))


def _answer(code: int, body: bytes) -> bytes:
    return b"%s %d %d\n%s" % (GREETING[:-1], code, len(body), body)


def _variable(raw: bytes) -> tuple[str, str]:
    try:
        name, _, value = raw.decode().partition("=")
    except UnicodeDecodeError:
        raise RequestError("a variable is not UTF-8", INVALID_ENVIRONMENT) from None
    return name, value


def _with_result(request: Request, document: bytes, netns: str) -> Request:
    """Add what the configuration on standard input says: the result of the plugins before this one."""
    try:
        config = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"standard input is not JSON: {error}", INVALID_CONFIGURATION) from None
    previous = config.get("prevResult") if isinstance(config, dict) else None
    if not isinstance(previous, dict):
        raise RequestError(
            "there is no prevResult", INVALID_CONFIGURATION,
            "weir-cni must come after the plugin that makes the pod's interface, in the same conflist",
        )  # fmt: skip
    version = config.get("cniVersion")
    return Request(
        request.command, request.container, request.interface, request.namespace, request.pod, request.uid,
        addresses=_addresses(previous, request.interface, netns), previous=previous,
        version=version if isinstance(version, str) and _VERSION.fullmatch(version) else _DEFAULT_VERSION,
    )  # fmt: skip


def _addresses(previous: dict[str, Any], interface: str, netns: str) -> tuple[str, ...]:
    """Return the first address of each family of the pod's interface: a pod has at most one in the API, too."""
    found: dict[int, str] = {}
    try:
        result = msgspec.convert(previous, _Result)
        interfaces = result.interfaces or []
        for entry in result.ips or ():
            if entry.interface is not None:
                owner = interfaces[max(entry.interface, 0)]
                if owner.name != interface or owner.sandbox not in ("", netns):
                    continue
            address = ipaddress.ip_interface(entry.address).ip
            found.setdefault(address.version, str(address))
    except (IndexError, ValueError) as error:
        raise RequestError(f"prevResult cannot be understood: {error}", INVALID_CONFIGURATION) from None
    if not found:
        raise RequestError(
            f"prevResult has no address of {interface}", INVALID_CONFIGURATION,
            "weir-cni must come after the plugin that gives the pod its addresses, in the same conflist",
        )  # fmt: skip
    return tuple(found.values())
