"""The broker's addresses, from the text that an operator gives.

Several addresses, comma-separated, are the nodes of one cluster. Passwords stay inside: whatever is printed has none.
Pure, but for reading the TLS files; it knows nothing of connections.
"""

import ssl
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from msgspec import Struct

DEFAULT_HEARTBEAT = 10
"""Seconds. RabbitMQ's guide calls 5 to 20 s optimal; below 5 s false alarms are likely."""

_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
_SCHEMES_SENTENCE = "an address looks like amqp://user:password@host:5672/vhost, or amqps:// for TLS"


class TLSFiles(Struct, frozen=True):
    """PEM files for amqps. Without `ca` the system's authorities are trusted; `key` may be inside `certificate`."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Endpoint(Struct, frozen=True):
    """One node of the broker."""

    host: str
    port: int
    virtual_host: str
    user: str
    password: str
    tls: bool

    def safe(self) -> str:
        """The address without its password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "amqps" if self.tls else "amqp"
        virtual_host = "" if self.virtual_host == "/" else quote(self.virtual_host, safe="")
        return f"{scheme}://{quote(self.user, safe='')}@{host}:{self.port}/{virtual_host}"

    def __repr__(self) -> str:
        return f"Endpoint({self.safe()})"


class BrokerAddresses(Struct, frozen=True):
    """Where the broker is, and how to talk to it. `heartbeat` is in seconds, 0 turns it off."""

    endpoints: tuple[Endpoint, ...]
    tls: TLSFiles = TLSFiles()
    heartbeat: int = DEFAULT_HEARTBEAT

    def safe(self) -> str:
        """All addresses without their passwords."""
        return ",".join(endpoint.safe() for endpoint in self.endpoints)

    def tls_context(self) -> ssl.SSLContext:
        """Read the files anew, so that a renewed certificate counts from the next connection on.

        Raises: ValueError, with a sentence that names the file.
        """
        return _tls_context(self.tls)


def parse_broker_url(text: str, tls: TLSFiles | None = None, heartbeat: int = DEFAULT_HEARTBEAT) -> BrokerAddresses:
    """Comma-separated amqp:// and amqps:// URLs; a comma inside a password is written %2C.

    Raises: ValueError, with a sentence for the operator; it never has the password in it.
    """
    parts = [part.strip() for part in text.split(",")]
    endpoints = tuple(_parse_endpoint(part) for part in parts if part)
    if not endpoints:
        raise ValueError(f"the broker's address is empty: {_SCHEMES_SENTENCE}")
    if heartbeat < 0:
        raise ValueError(f"a heartbeat of {heartbeat} s is refused: use 0 (off) or more")
    addresses = BrokerAddresses(endpoints, tls or TLSFiles(), heartbeat)
    if any(endpoint.tls for endpoint in endpoints):
        addresses.tls_context()
    elif tls is not None and (tls.ca or tls.certificate or tls.key):
        raise ValueError("TLS files are given, but no address of the broker is amqps://: the connection would be plain")
    return addresses


def _parse_endpoint(text: str) -> Endpoint:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        # The error's own text may quote the password.
        raise ValueError(f"the broker's address {_redacted(text)} cannot be read: {_SCHEMES_SENTENCE}") from None
    if url.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"the broker's address {_redacted(text)} has no amqp:// or amqps://: {_SCHEMES_SENTENCE}")
    if url.query or url.fragment:
        raise ValueError(
            f"the broker's address {_redacted(text)} has options after ? or #, which are not understood:"
            " TLS files and the heartbeat are settings of their own (and ? or # in a password is written %3F, %23)"
        )
    return Endpoint(
        host=url.hostname or "localhost",
        port=port or _DEFAULT_PORTS[url.scheme],
        virtual_host=_virtual_host(url),
        user=_unquote(url.username, "guest"),
        password=_unquote(url.password, "guest"),
        tls=url.scheme == "amqps",
    )


def _virtual_host(url: SplitResult) -> str:
    # amqp://host and amqp://host/ both mean the default virtual host, as most clients have it.
    return unquote(url.path[1:]) or "/"


def _unquote(value: str | None, default: str) -> str:
    return default if value is None else unquote(value)


def _redacted(text: str) -> str:
    # Without an @ what follows the first colon may be the start of a password that has an unquoted comma or slash.
    scheme, separator, rest = text.rpartition("://")
    host = rest.rpartition("@")[2] if "@" in rest else rest.partition(":")[0]
    return repr(scheme + separator + host)


def _tls_context(files: TLSFiles) -> ssl.SSLContext:
    for role, path in (("CA", files.ca), ("certificate", files.certificate), ("key", files.key)):
        if path is not None and not path.is_file():
            raise ValueError(f"the TLS {role} file {path} does not exist")
    if files.key is not None and files.certificate is None:
        raise ValueError(f"the TLS key {files.key} is given without its certificate")
    try:
        context = ssl.create_default_context(cafile=files.ca)
    except (OSError, ValueError) as error:
        raise ValueError(f"the TLS CA file {files.ca} cannot be read: {error}") from error
    if files.certificate is not None:
        try:
            # An empty password, since OpenSSL would ask for one on the terminal.
            context.load_cert_chain(files.certificate, files.key, password="")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the TLS certificate {files.certificate} and its key cannot be used"
                f" (is the key the certificate's own, in PEM, without a passphrase?): {error}"
            ) from error
    return context
