"""The sentences for failures that a test cannot easily have from a real broker."""

import errno
import socket
import ssl

import pytest
from pika import exceptions

from broker_wire.amqp.addresses import Endpoint
from broker_wire.amqp.failures import Stage, explain
from broker_wire.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError, NotConnectedError

PLAIN = Endpoint("h", 5672, "v", "user", "sesame", False)
TLS = Endpoint("h", 5671, "v", "user", "sesame", True)


def by_broker(code: int, text: str) -> exceptions.ConnectionClosedByBroker:
    return exceptions.ConnectionClosedByBroker(code, text)


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "stage", "endpoint", "kind", "sentence"),
    [
        (by_broker(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'user'"), Stage.OPENING, PLAIN,
         BrokerRefusedError, "user 'user' has no permission for virtual host 'v'"),
        (by_broker(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'user': connection limit (1) is reached"),
         Stage.OPENING, PLAIN, BrokerRefusedError, "connection limit"),
        (by_broker(320, "CONNECTION_FORCED - broker forced connection closure"), Stage.OPEN, PLAIN,
         NotConnectedError, "the broker closed it: 320 CONNECTION_FORCED"),
        (None, Stage.AUTHENTICATING, PLAIN, BrokerRefusedError, "wrong user name or password"),
        (None, Stage.OPENING, PLAIN, BrokerRefusedError, "the virtual host"),
        (None, Stage.GREETING, PLAIN, BrokerUnreachableError, "hung up without a word"),
        (exceptions.AuthenticationError("PLAIN"), Stage.AUTHENTICATING, PLAIN, BrokerRefusedError, "SASL PLAIN"),
        (exceptions.AMQPHeartbeatTimeout("10 s"), Stage.OPEN, PLAIN, NotConnectedError, "no sign of life"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), Stage.CONNECTING, PLAIN,
         BrokerUnreachableError, "cannot be reached"),
        (OSError(f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] Connect call failed ('::1', 1, 0, 0)"),
         Stage.CONNECTING, PLAIN, BrokerUnreachableError, "nothing listens"),
        (OSError(f"Multiple exceptions: [Errno {errno.ENETUNREACH}] Connect call failed ('::1', 1, 0, 0)"),
         Stage.CONNECTING, PLAIN, BrokerUnreachableError, "cannot be reached"),
        (socket.gaierror(-2, "Name or service not known"), Stage.CONNECTING, PLAIN,
         BrokerUnreachableError, "does not resolve"),
        (ConnectionResetError(), Stage.CONNECTING, TLS, BrokerUnreachableError, "during the TLS handshake"),
        (tls_error("TLSV1_ALERT_UNKNOWN_CA"), Stage.GREETING, TLS, BrokerUnreachableError, "our client certificate"),
        (tls_error("TLSV1_ALERT_PROTOCOL_VERSION"), Stage.CONNECTING, TLS, BrokerUnreachableError, "TLS versions"),
    ],
)  # fmt: skip
def test_a_failure_has_its_sentence(
    error: BaseException | None, stage: Stage, endpoint: Endpoint, kind: type[BrokerError], sentence: str
) -> None:
    explained = explain(error, stage, endpoint)
    assert type(explained) is kind
    assert sentence in str(explained)
    assert endpoint.safe() in str(explained)
    assert "sesame" not in str(explained)
