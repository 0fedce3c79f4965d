"""The wire's own errors.

WireError
├── GarbageError            bytes that are not a message of ours
│   └── IncompatibleError   a message of another major version of the protocol
├── NameRefusedError        a worker's or model's name that cannot be carried
└── BrokerError             the broker or the way to it
    ├── BrokerUnreachableError   nothing listens, the name does not resolve, TLS mismatch
    ├── BrokerRefusedError       it answered, and said no: password, vhost, permission
    ├── NotConnectedError        there is no connection at this moment
    ├── ChannelClosedError       the broker closed the channel (code and text are its own)
    │   └── QueueDownError       the queue is on a node of the cluster that is down
    ├── QueueFullError           the broker nacked a publish: the queue is at its bound
    ├── UnroutableError          no queue is bound for this routing key
    └── MessageTooLargeError     over the broker's max_message_size; nothing was sent
"""


class WireError(Exception):
    """Something is wrong with a message, a name or the way to the broker."""


class GarbageError(WireError):
    """These bytes are no message of this protocol."""


class IncompatibleError(GarbageError):
    """A message of another major version of the protocol."""

    def __init__(self, version: str) -> None:
        super().__init__(f"a message of protocol version {version}, which this side does not speak")
        self.version = version


class NameRefusedError(WireError, ValueError):
    """The name of a worker or model cannot be carried by AMQP, or could be taken for something else."""


class BrokerError(WireError):
    """The broker, or the way to it, failed."""


class BrokerUnreachableError(BrokerError):
    """No AMQP broker answers at this address."""


class BrokerRefusedError(BrokerError):
    """The broker answered and refused: wrong password, no such vhost, no permission."""


class NotConnectedError(BrokerError):
    """There is no open connection to the broker at this moment."""


class ChannelClosedError(BrokerError):
    """The broker closed the channel.

    Attributes:
        code: AMQP reply code, 404 for no such queue, 406 for other arguments; 0 when the connection went.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the broker closed the channel: {code} {text}" if code else f"the channel is closed: {text}")
        self.code = code
        self.text = text


class QueueDownError(ChannelClosedError):
    """The queue exists, on a node of the cluster that is down: nobody can use it or make another one of its name."""


class QueueFullError(BrokerError):
    """The queue is at its bound and the broker refused the message."""


class UnroutableError(BrokerError):
    """No queue is bound for this routing key."""


class MessageTooLargeError(BrokerError):
    """The message is larger than the broker's max_message_size; it was not sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the message has {size} bytes, the broker takes {limit} at most")
        self.size = size
        self.limit = limit
