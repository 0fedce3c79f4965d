"""Controllers that are each other's workers: what one says of itself to another, and what keeps requests from going
round in a circle. Pure; used by `parents`, `bridge` and the HTTP surfaces.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from broker_controller.errors import AddressRefusedError, LoopError

MAX_HOPS = 8
"""Nobody nests so deeply on purpose. Each hop holds a slot, so a circle should not be gone round often."""
CONTROLLER_FIELD = "controller"
"""Of a status: the id of the controller process that gives it. LLaVA and FastChat look at other fields only."""


def read_hops(header: bytes | None) -> int:
    """The value of `X-Controller-Hops`; what is no number says nothing.

    Raises: LoopError.
    """
    hops = int(header) if header is not None and header.isdigit() and len(header) < 10 else 0
    if hops > MAX_HOPS:
        raise LoopError(f"it has come through {hops} controllers, which have each other as workers, it seems")
    return hops


class LoopGuard:
    """Who may not be a worker of this controller: itself, and those that it is a worker of."""

    def __init__(self, controller_id: str, public_url: str | None = None, parents: Sequence[str] = ()) -> None:
        self._controller_id = controller_id
        self._public_url = public_url
        self._parents = frozenset(parents)

    def check(self, url: str, status: Mapping[str, Any], called_as: str) -> None:
        """A registration; `called_as` is the address that it came to.

        Raises: AddressRefusedError.
        """
        address = url.rstrip("/")
        if address in (self._public_url, called_as) or status.get(CONTROLLER_FIELD) == self._controller_id:
            raise AddressRefusedError(f"worker {url!r} may not register: it is this controller itself")
        if address in self._parents:
            raise AddressRefusedError(
                f"worker {url!r} may not register: this controller is a worker of it (--parent), and its requests "
                "would go round in a circle"
            )
