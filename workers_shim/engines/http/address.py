"""Where an HTTP worker is called. Whether it may be called is for whoever says the address."""

from urllib.parse import urlsplit

from msgspec import Struct


class HttpAddress(Struct, frozen=True):
    """An HTTP worker's address.

    Attributes:
        url: as people write it; its name in what is said of it.
        bases: the addresses to call in its place, to be tried in order.
        host_header: what the worker expects as `Host`.
        server_name: whom its TLS certificate has to name; "" without TLS.
    """

    url: str
    bases: tuple[str, ...]
    host_header: str
    server_name: str


def parse_address(url: str) -> HttpAddress:
    """An address that is called by name, as somebody trusted wrote it.

    Raises: ValueError, with a sentence.
    """
    problem = f"{url!r} is not the address of an HTTP worker, as http://localhost:21002 is"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{problem}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(problem)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{problem}: it has neither a user nor a query")
    url = url.rstrip("/")
    return HttpAddress(url, (url,), parts.netloc, parts.hostname if parts.scheme == "https" else "")
