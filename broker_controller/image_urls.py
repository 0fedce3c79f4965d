"""Which images, sounds and videos a request may name by URL. Pure.

An engine fetches what it is told to, from inside of whatever network it is in: by default a client sends the data
itself, and a URL has to be of a host that the operator allows. Used for every body that goes to a worker; it is looked
into only where it may have a URL at all.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from broker_controller.errors import BadRequestError

ANY_HOST = "*"
_KEYS = frozenset({"image_url", "audio_url", "video_url"})
"""OpenAI's, and what engines added in its manner."""
_WORDS = (b'_url"', b'"images"')
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
"""The keys can be written so that no word of them shows; nobody else escapes plain letters."""
_PATTERN = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_SHOWN = 80
"""Characters of a refused URL that its client is told."""


class _Body(Struct):
    """Where a body may have URLs. `images` is LLaVA's: base64 as it is; engines have forms of their own under it."""

    messages: Any = None
    input: Any = None
    images: Any = None


_read = msgspec.json.Decoder(_Body).decode


def parse_hosts(text: str) -> tuple[str, ...]:
    """An allow-list from settings, comma-separated: `images.example.com`, `*.example.com` (whatever is below it), an
    address, or `*`.

    Raises: ValueError, with a sentence.
    """
    hosts = [part.strip().lower() for part in text.split(",") if part.strip()]
    for host in hosts:
        if host != ANY_HOST and not _PATTERN.fullmatch(host) and not _is_address(host):
            raise ValueError(f"{host!r} is no host as images.example.com, *.example.com or * are")
    return tuple(hosts)


def check_urls(body: bytes, allowed: Sequence[str]) -> None:
    """Refuse a body with a URL that is neither the data itself nor of an allowed host.

    Args:
        body: JSON that has been read before.
        allowed: as `parse_hosts` gives them.

    Raises: BadRequestError.
    """
    if not _may_have_urls(body):
        return
    found = _read(body)
    for url in _urls_in([found.messages, found.input]):
        _check(url, allowed)
    for text in _texts_below(found.images):
        # Base64 has no colon, and no URL is without one.
        if ":" in text:
            _check(text, allowed)


def _may_have_urls(body: bytes) -> bool:
    if any(word in body for word in _WORDS):
        return True
    return b"\\u00" in body and _ESCAPED_ASCII.search(body) is not None


def _urls_in(content: Any) -> Iterator[str]:
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key in _KEYS:
                    yield from _texts_in(inner.get("url") if isinstance(inner, dict) else inner)
                else:
                    pending.append(inner)


def _texts_below(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text:
                yield text
            case list() as values:
                pending += values
            case dict() as fields:
                pending += fields.values()


def _texts_in(value: Any) -> Iterator[str]:
    for text in value if isinstance(value, list) else (value,):
        if isinstance(text, str):
            yield text


def _check(url: str, allowed: Sequence[str]) -> None:
    if url[:5].lower() == "data:":
        return
    host = _host_of(url)
    if host is None:
        raise BadRequestError(f"{url[:_SHOWN]!r} is neither a data URL nor an address as https://host/image.png")
    if not any(_matches(host, pattern) for pattern in allowed):
        raise BadRequestError(
            f"{url[:_SHOWN]!r} is not fetched: {host} is no host that --allow-image-url of the controller allows. "
            "Send the data itself, as a data URL"
        )


def _host_of(url: str) -> str | None:
    """None for what two programs may read in two ways, too."""
    if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or "%" in parts.netloc:
        return None
    return parts.hostname.removesuffix(".")


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in {ANY_HOST, host}


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
