"""What went wrong on the way to the broker, as one sentence that says what to check.

The link hands over what it saw (an OSError, a TLS error, one of pika's exceptions) and how far it had come; pika itself
only says "probable authentication error". No sentence has a password in it.
"""

import asyncio
import errno
import socket
import ssl
from enum import Enum

from pika import exceptions

from broker_wire.amqp.addresses import Endpoint
from broker_wire.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError, NotConnectedError


class Stage(Enum):
    """How far a connection had come when it failed."""

    CONNECTING = "connecting"
    """The name, TCP, TLS."""
    GREETING = "greeting"
    """The protocol header is sent, nothing has come back."""
    AUTHENTICATING = "authenticating"
    OPENING = "opening"
    """The password was right; the virtual host is being opened."""
    OPEN = "open"


class NotAMQPError(Exception):
    """The first bytes that came back are not AMQP 0-9-1."""

    def __init__(self, first_bytes: bytes) -> None:
        super().__init__(f"the first bytes are {first_bytes[:8]!r}")
        self.first_bytes = first_bytes


class BadFrameError(Exception):
    """Bytes that are no frame, in the middle of a connection."""


class HandshakeTimeoutError(Exception):
    """The deadline of the whole handshake passed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")
        self.seconds = seconds


def explain(error: BaseException | None, stage: Stage, endpoint: Endpoint) -> BrokerError:
    """The sentence for `error`; None stands for an end of the stream without a word."""
    if isinstance(error, BrokerError):
        return error
    where = endpoint.safe()
    if stage is Stage.OPEN:
        return NotConnectedError(f"the connection to {where} was lost: {_loss(error)}")
    if isinstance(error, exceptions.ConnectionClosedByBroker):
        return _refusal(error, stage, endpoint)
    if isinstance(error, exceptions.AuthenticationError):
        return BrokerRefusedError(f"{where} does not take a user and password (SASL PLAIN): check its auth_mechanisms")
    if isinstance(error, HandshakeTimeoutError):
        return BrokerUnreachableError(_silence(error.seconds, stage, where))
    if isinstance(error, NotAMQPError):
        return BrokerUnreachableError(_stranger(error, where))
    if isinstance(error, ssl.SSLError):
        return BrokerUnreachableError(_tls(error, where))
    if stage is Stage.CONNECTING:
        return BrokerUnreachableError(_unconnected(error, endpoint))
    return _hangup(error, stage, endpoint)


def _unconnected(error: BaseException | None, endpoint: Endpoint) -> str:
    where = endpoint.safe()
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"the name {endpoint.host!r} in {where} does not resolve ({error}): check the broker's address"
    # Where a name has several addresses, asyncio only joins the texts of their errors.
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return f"nothing listens at {where} (connection refused): is the broker running, and are host and port right?"
    if endpoint.tls and isinstance(error, ConnectionResetError | ConnectionAbortedError | EOFError | None):
        return (
            f"{where} hung up during the TLS handshake: is this the broker's TLS port (usually 5671),"
            " and does it ask for a client certificate?"
        )
    return f"{where} cannot be reached ({error}): check host, port, network and firewall"


def _silence(seconds: float, stage: Stage, where: str) -> str:
    if stage is Stage.CONNECTING:
        return f"{where} does not answer: no connection within {seconds:g} s; check host, port, network and firewall"
    if stage is Stage.GREETING:
        return (
            f"something listens at {where} and says nothing within {seconds:g} s:"
            " it is frozen, overloaded, a TLS port (then use amqps://), or no AMQP broker"
        )
    return f"{where} stopped answering while {stage.value}, {seconds:g} s after the start: it is frozen or overloaded"


def _stranger(error: NotAMQPError, where: str) -> str:
    # A TLS record of type alert (21) or handshake (22).
    if error.first_bytes[:1] in (b"\x15", b"\x16"):
        return f"{where} is a TLS port and was spoken to in plain: use amqps:// (or the plain port, usually 5672)"
    if error.first_bytes.startswith(b"AMQP"):
        return f"{where} speaks AMQP, but not 0-9-1, which RabbitMQ speaks: is this another broker?"
    return f"what listens at {where} is no AMQP broker ({error}): check the port"


def _tls(error: ssl.SSLError, where: str) -> str:
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
            return f"the certificate of {where} is for another name ({error.verify_message}): use the name that it has"
        return (
            f"the certificate of {where} is not trusted ({error.verify_message}):"
            " give the file of the authority that signed it as the broker's CA"
        )
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING"}:
        return f"{where} does not speak TLS at this port: use amqp://, or the broker's TLS port (usually 5671)"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"{where} asks for a client certificate ({reason}): give one that its CA signed, with its key"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE_" in reason:
        return f"{where} refused our client certificate ({reason}): is it signed by the CA that the broker trusts?"
    return f"no TLS connection to {where} ({reason}): check the broker's TLS versions and certificates"


def _refusal(error: exceptions.ConnectionClosedByBroker, stage: Stage, endpoint: Endpoint) -> BrokerError:
    where, said = endpoint.safe(), f"{error.reply_code} {error.reply_text}"
    user, virtual_host = endpoint.user, endpoint.virtual_host
    if stage is Stage.AUTHENTICATING:
        return BrokerRefusedError(f"{where} refused user {user!r}: wrong user name or password (the broker: {said})")
    if "not found" in error.reply_text:
        return BrokerRefusedError(
            f"there is no virtual host {virtual_host!r} at {where}: create it"
            f" (rabbitmqctl add_vhost), or correct the address (the broker: {said})"
        )
    if "refused for user" in error.reply_text and "limit" not in error.reply_text:
        return BrokerRefusedError(
            f"user {user!r} has no permission for virtual host {virtual_host!r} at {where}:"
            f" grant it (rabbitmqctl set_permissions) (the broker: {said})"
        )
    return BrokerRefusedError(f"{where} refused the connection while {stage.value} (the broker: {said})")


def _hangup(error: BaseException | None, stage: Stage, endpoint: Endpoint) -> BrokerError:
    where = endpoint.safe()
    if stage is Stage.AUTHENTICATING:
        return BrokerRefusedError(f"{where} hung up while authenticating: wrong user name or password?")
    if stage is Stage.OPENING:
        return BrokerRefusedError(f"{where} hung up while opening the virtual host: is it there, may the user use it?")
    # With TLS 1.3 a server refuses a client without a certificate only after the handshake.
    guess = "it asks for a client certificate" if endpoint.tls else "a TLS port (then use amqps://)"
    return BrokerUnreachableError(
        f"{where} hung up without a word ({_loss(error)}): it is starting or stopping, {guess}, or no AMQP broker"
    )


def _loss(error: BaseException | None) -> str:
    if isinstance(error, exceptions.ConnectionClosedByBroker):
        return f"the broker closed it: {error.reply_code} {error.reply_text}"
    if isinstance(error, exceptions.ConnectionClosedByClient):
        return f"it was closed here: {error.reply_text}"
    if isinstance(error, exceptions.AMQPHeartbeatTimeout):
        return f"no sign of life from the broker ({error.args[0] if error.args else 'heartbeat missed'})"
    if error is None or isinstance(error, exceptions.StreamLostError | asyncio.IncompleteReadError):
        return "the other end hung up"
    return str(error) or type(error).__name__
