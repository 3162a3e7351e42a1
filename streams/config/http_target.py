"""What the outputs that send by HTTP have in common in the files: address, headers, authority, client certificate.

The files hold no secret: an address or a header that is one is named by its environment variable, or by a file. A file
is read again for each request, so that a renewed token is used at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from enrich.runtime.process import Exit, StopServiceError
from streams.config.yaml_file import Problem, Steps

Url = Annotated[str, Meta(pattern=r"^https?://[^ ]+$")]
UrlVariable = Annotated[str, Meta(description="The environment variable that holds the URL, if it is a secret.")]
UrlFile = Annotated[str, Meta(description="The file that holds the URL, if it is a secret.")]


class HttpTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fields of an output that sends by HTTP, without its address."""

    headers: Annotated[
        dict[str, str],
        Meta(
            description="HTTP header to the name of the environment variable that holds its value, so that this file "
            "contains no secret."
        ),
    ] = {}
    header_files: Annotated[
        dict[str, str], Meta(description="HTTP header to the file that holds its value, read for each request.")
    ] = {}
    ca: Annotated[
        str | None,
        Meta(description="PEM file of the authorities that may sign the receiver's certificate. Default: public ones."),
    ] = None
    certificate: Annotated[str | None, Meta(description="PEM file of the client certificate.")] = None
    key: Annotated[str | None, Meta(description="PEM file of the client certificate's key.")] = None


def check_target(at: Steps, target: HttpTarget, address: str) -> Iterator[Problem]:
    """Yield the mistakes of an output; ``address`` is the field of its URL, beside which ``_env`` and ``_file`` are."""
    fields = (address, f"{address}_env", f"{address}_file")
    if sum(getattr(target, field) is not None for field in fields) != 1:
        yield Problem(at, f"must have exactly one of {', '.join(fields)}")
    given = getattr(target, address)
    problem = None if given is None else url_problem(given)
    if problem:
        yield Problem((*at, address), problem)
    if (target.certificate is None) != (target.key is None):
        yield Problem(at, "certificate and key must be given together")


def is_base(url: str) -> bool:
    """Return whether a URL is scheme, host and port only, as gRPC takes it."""
    parts = urlsplit(url)
    return parts.path in ("", "/") and not parts.query and not parts.fragment


def url_problem(url: str) -> str | None:
    """Return what is wrong with a URL, without a part of it, which may be secret; None if nothing is."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text may quote a password
        is_good = False
    return None if is_good else "must be a URL that begins with http:// or https:// and names a host"


def read_url(target: HttpTarget, address: str, named: str) -> str:
    """Return the URL of an output. Raises StopServiceError if the variable or file does not have one."""
    given, variable, file = (getattr(target, f"{address}{ending}") for ending in ("", "_env", "_file"))
    if given is not None:
        return str(given)
    if variable is not None:
        url = os.environ.get(variable, "").strip()
        where = f"the environment variable {variable}"
    else:
        url, where = _read(str(file), f"{named}: {address}_file"), str(file)
    if url_problem(url):
        raise StopServiceError(f"{named}: {where} does not hold a URL that begins with http:// or https://", Exit.USAGE)
    return url


def read_headers(target: HttpTarget, named: str) -> dict[str, str]:
    """Return header to value. Raises StopServiceError if a variable or file is missing."""
    missing = [variable for variable in target.headers.values() if variable not in os.environ]
    if missing:
        raise StopServiceError(f"{named}: headers: {missing[0]} is not in the environment", Exit.USAGE)
    found = {header: os.environ[variable] for header, variable in target.headers.items()}
    for header, path in target.header_files.items():
        found[header] = _read(path, f"{named}: header_files")
    return found


def check_files(target: HttpTarget, named: str) -> None:
    """Raise StopServiceError if a file of the authority or of the client certificate does not exist."""
    for field in ("ca", "certificate", "key"):
        path = getattr(target, field)
        if path is not None and not Path(path).is_file():
            raise StopServiceError(f"{named}: {field}: {path} does not exist", Exit.USAGE)


class OpenTarget(NamedTuple):
    """What a sink needs to send to an output."""

    url: str
    headers: Callable[[], dict[str, str]]
    """Reads the variables and files of the headers. Raises StopServiceError if one is missing."""
    ca: str | None
    certificate: tuple[str, str] | None
    """The files of the client certificate and of its key."""


def open_target(target: HttpTarget, address: str, named: str) -> OpenTarget:
    """Read the address of an output, and check that everything it names is there. Raises StopServiceError."""
    url = read_url(target, address, named)
    check_files(target, named)
    read_headers(target, named)
    certificate = (target.certificate, target.key) if target.certificate and target.key else None
    return OpenTarget(url, partial(read_headers, target, named), target.ca, certificate)


def _read(path: str, named: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StopServiceError(f"{named}: {path} cannot be read: {error}", Exit.USAGE) from error
