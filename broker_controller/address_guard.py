"""Which addresses may register as HTTP workers, and where exactly a registered one is called.

Whoever may register an address makes this process call it, so it is held against an allow-list of networks. A host's
name is resolved once, at registration; afterwards its worker is called at the addresses that were checked, whatever
the name says by then. Used by `bridge`; it calls nobody but the resolver.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from broker_controller.errors import AddressRefusedError, BadRequestError
from broker_wire.errors import NameRefusedError
from broker_wire.topology import check_worker_name
from workers_shim.engines.http.address import HttpAddress

_log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A host's name to its addresses, as texts. Raises OSError."""

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
RESOLVE_TIMEOUT = 5.0
"""Seconds, as long as a worker has to answer."""
MAX_ADDRESSES = 16
"""Addresses of one name that are looked at; a name with more is refused."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """An allow-list from settings, each `192.0.2.0/24`, `2001:db8::/32` or one address.

    Raises: ValueError, with a sentence.
    """
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text.strip()))
        except ValueError as error:
            raise ValueError(f"{text!r} is no network of addresses, as 10.0.0.0/8 is: {error}") from error
    return tuple(networks)


class AddressGuard:
    """The allow-list."""

    def __init__(self, networks: Sequence[Network] = LOOPBACK, resolve: Resolve | None = None) -> None:
        self._networks = tuple(networks)
        self._resolve = resolve or _resolve

    async def admit(self, url: str) -> HttpAddress:
        """Check a worker's address; every address that its host's name resolves to has to be allowed.

        Returns: where to call it, by those IP addresses and not by name.
        Raises: AddressRefusedError, also logged; BadRequestError for what is no such address at all.
        """
        parts, port = _split(url)
        host = parts.hostname or ""
        if "@" in parts.netloc:
            raise self._refusal(url, "it has a user or a password in it")
        addresses = [_plain(text) for text in await self._addresses_of(url, host)]
        for address in addresses:
            if not any(address in network for network in self._networks):
                networks = ", ".join(str(network) for network in self._networks) or "none"
                raise self._refusal(
                    url,
                    f"{host} is {address}, which is in none of the networks that HTTP workers may be in ({networks})",
                )
        path = parts.path.rstrip("/")
        bases = tuple(f"{parts.scheme}://{_in_url(address)}:{port}{path}" for address in dict.fromkeys(addresses))
        return HttpAddress(url, bases, parts.netloc, host if parts.scheme == "https" else "")

    async def _addresses_of(self, url: str, host: str) -> Sequence[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                addresses = await self._resolve(host)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            raise BadRequestError(f"worker {url!r} is not registered: {host} does not resolve ({error})") from error
        if not 1 <= len(addresses) <= MAX_ADDRESSES:
            raise self._refusal(url, f"{host} has {len(addresses)} addresses, 1 to {MAX_ADDRESSES} are looked at")
        return addresses

    @staticmethod
    def _refusal(url: str, reason: str) -> AddressRefusedError:
        _log.warning("address of an HTTP worker refused worker=%s reason=%s", url, reason)
        return AddressRefusedError(f"worker {url!r} may not register: {reason}")


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        check_worker_name(url)
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except (NameRefusedError, ValueError) as error:
        raise _no_address(url) from error
    printable = url.isascii() and url.isprintable()
    if not printable or not port or not parts.hostname or "%" in parts.netloc or "\\" in url:
        raise _no_address(url)
    return parts, port


def _no_address(url: str) -> BadRequestError:
    return BadRequestError(
        f"worker {url[:80]!r} is not registered: it has to be an address as http://host:port, "
        "without a query or fragment, in 200 bytes at most"
    )


def _plain(text: str) -> Address:
    """An IPv4 address that is written as IPv6 is the IPv4 one, for the connection and for the check."""
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _in_url(address: Address) -> str:
    return f"[{address}]" if isinstance(address, IPv6Address) else str(address)


async def _resolve(host: str) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found if entry[0] in (socket.AF_INET, socket.AF_INET6)]
