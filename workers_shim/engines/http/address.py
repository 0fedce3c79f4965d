"""Where an HTTP worker is called. Whether it may be called is for whoever makes one to say."""

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
