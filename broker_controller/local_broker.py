"""The one place that chooses a broker: the given one, one that runs here, one of our own, one in Docker.

Called by the controller's command line, the demo, the benchmarks and the tests. It knows nothing of what travels over
the broker, and whatever it started, it ends.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum

from broker_controller.amqp_probe import answers_amqp, something_listens
from broker_controller.docker_broker import DockerBrokerError, docker_broker
from broker_controller.private_node import PrivateNode, find_server

DEFAULT_PORT = 5672  # IANA: amqp
_LOCALHOST = "localhost"

_WHAT_TO_INSTALL = """\
There is no RabbitMQ to use: {reason}. Do one of these:
  - install it: on Debian or Ubuntu `apt-get install rabbitmq-server`, on macOS `brew install rabbitmq`
  - install Docker and `pip install 'broker-controller[docker]'`
  - give the address of one that runs: --broker-url amqp://user:password@host:5672/ (or AMQP_URL)"""


class BrokerChoice(StrEnum):
    """Where the broker in use comes from; the order is the order of choice."""

    GIVEN = "given"
    RUNNING = "running"
    PRIVATE_NODE = "private node"
    DOCKER = "docker"


class NoBrokerError(RuntimeError):
    """No broker can be had; the message says what to install or to give."""


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that can be used now, and where it comes from. `node` is there for a private node."""

    url: str
    choice: BrokerChoice
    node: PrivateNode | None = None

    def describe(self) -> str:
        """One line for a person, without the password."""
        match self.choice:
            case BrokerChoice.GIVEN:
                return "the RabbitMQ of --broker-url or AMQP_URL"
            case BrokerChoice.RUNNING:
                return f"the RabbitMQ that runs on {_address(self.url)}"
            case BrokerChoice.PRIVATE_NODE:
                return f"a private RabbitMQ node on {_address(self.url)}, which ends with this process"
            case BrokerChoice.DOCKER:
                return f"a RabbitMQ in Docker on {_address(self.url)}, which ends with this process"


@contextmanager
def local_broker(url: str | None, *, port: int = DEFAULT_PORT) -> Iterator[RunningBroker]:
    """Choose a broker, start one if none is there, and end what was started.

    Args:
        url: the address that the user gave, if any; it is not tried here.
        port: where on localhost one may be running, and where a private one listens, so that workers find it.

    Raises:
        NoBrokerError: none is there and none can be started.
        PrivateNodeError: the installed RabbitMQ does not start.
    """
    if url:
        yield RunningBroker(url, BrokerChoice.GIVEN)
    elif answers_amqp(_LOCALHOST, port):
        yield RunningBroker(f"amqp://guest:guest@{_LOCALHOST}:{port}/", BrokerChoice.RUNNING)
    elif something_listens(_LOCALHOST, port):
        raise NoBrokerError(
            f"Port {port} on {_LOCALHOST} is taken by something that does not speak AMQP. "
            "Free it, or give the address of a RabbitMQ with --broker-url."
        )
    else:
        with private_broker(port) as broker:
            yield broker


@contextmanager
def private_broker(port: int = 0) -> Iterator[RunningBroker]:
    """A broker that nobody else uses, on `port` (0: a free one): a private node, else Docker.

    Raises:
        NoBrokerError: neither RabbitMQ nor Docker is there.
        PrivateNodeError: the installed RabbitMQ does not start.
    """
    with ExitStack() as stack:
        if find_server() is not None:
            node = stack.enter_context(PrivateNode(port))
            yield RunningBroker(node.url, BrokerChoice.PRIVATE_NODE, node)
            return
        try:
            url = stack.enter_context(docker_broker(port))
        except DockerBrokerError as error:
            reason = f"rabbitmq-server is not installed, and {error}"
            raise NoBrokerError(_WHAT_TO_INSTALL.format(reason=reason)) from error
        yield RunningBroker(url, BrokerChoice.DOCKER)


def _address(url: str) -> str:
    return url.rpartition("@")[2].rstrip("/")
