"""Whether this controller takes requests at this moment, and the error for whoever comes when it does not.

Asked by `gateway` for each request and by `/readyz`; the HTTP server says when the process is about to leave.
"""

from collections.abc import Callable

from broker_controller.errors import RETRY_AFTER, BrokerUnavailableError, ShuttingDownError
from broker_controller.inflight_bytes import InflightBytes
from broker_controller.links import Links


class Door:
    """Of one controller process."""

    def __init__(self, links: Links, inflight: InflightBytes) -> None:
        self._links = links
        self._inflight = inflight
        self.leaving = False
        """This controller is about to leave."""
        self._refusing = False
        self.on_leave: list[Callable[[], None]] = []
        """Told once, at the first `leave`."""

    @property
    def ready(self) -> bool:
        """Requests can be taken: the broker is there and takes messages, and this controller is not leaving."""
        return self._links.up and not self._links.blocked and not self.leaving

    def leave(self) -> None:
        """Be ready no more. What comes all the same is taken, until `refuse`."""
        if not self.leaving:
            self.leaving = True
            for tell in self.on_leave:
                tell()

    def refuse(self) -> None:
        """Take nothing new; what runs goes on."""
        self._refusing = True

    def check(self, size: int) -> None:
        """Whether a request with a body of so many bytes is taken; while the broker is away for a moment it is.

        Raises: ShuttingDownError, BrokerUnavailableError, OverloadedError.
        """
        if self._refusing:
            raise ShuttingDownError("it was not taken: this controller is about to leave")
        if self._links.blocked or not self._links.ever_connected:
            raise self.broker_unavailable()
        self._inflight.refuse_if_full(size)

    def broker_unavailable(self) -> BrokerUnavailableError:
        """For a request that the broker does not take now."""
        return BrokerUnavailableError(f"it was not taken: {self._links.problem}", retry_after=RETRY_AFTER)
