"""Ask whether an AMQP 0-9-1 broker answers at an address, with nothing but a socket.

Called by whoever starts or looks for a broker, before any AMQP client exists. It must not know
users, passwords or virtual hosts: a broker that would refuse the login is still a broker.
"""

import contextlib
import random
import socket

# AMQP 0-9-1, 4.2.2: a client opens with this header; a broker answers with a method frame on channel 0.
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME_ON_CHANNEL_0 = b"\x01\x00\x00"
# Below the ephemeral ports of Linux (net.ipv4.ip_local_port_range: from 32768) and of all others.
_NEVER_EPHEMERAL = range(22_000, 32_768)


def answers_amqp(host: str, port: int, timeout: float = 2.0) -> bool:
    """Whether a broker greets us at `host`:`port` with Connection.Start within `timeout` seconds."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(PROTOCOL_HEADER)
            greeting = b""
            while len(greeting) < len(METHOD_FRAME_ON_CHANNEL_0):
                received = connection.recv(len(METHOD_FRAME_ON_CHANNEL_0) - len(greeting))
                if not received:
                    return False
                greeting += received
    except OSError:
        return False
    return greeting == METHOD_FRAME_ON_CHANNEL_0


def something_listens(host: str, port: int, timeout: float = 2.0) -> bool:
    """Whether anything at all accepts TCP connections at `host`:`port`."""
    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on now. Another process may still take it: use it soon.

    Never one that the system gives to outgoing connections: a client that retries a dead server on such a port can be
    given it, meets itself, and keeps the server from coming back.

    Raises:
        OSError: all of them are taken.
    """
    for port in random.sample(_NEVER_EPHEMERAL, len(_NEVER_EPHEMERAL)):
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind((host, port))
            return port
    raise OSError(f"no TCP port of {_NEVER_EPHEMERAL} is free on {host}")
