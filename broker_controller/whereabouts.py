"""Which requests a worker's process has ever had: who has to hear what becomes of it.

Kept by `gateway`. A roll-call of a thousand workers must not look at ten thousand requests a thousand times over.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Whereabouts(Generic[K]):
    """Requests by instance. `K` is whatever stands for a request."""

    def __init__(self) -> None:
        self._requests: dict[str, set[K]] = {}
        self._instances: dict[K, list[str]] = {}
        """In order: the last one has it now, or had it last."""

    def note(self, request: K, instance: str) -> bool:
        """A process has the request now. False: it was there already, when this was last noted."""
        instances = self._instances.setdefault(request, [])
        if instances and instances[-1] == instance:
            return False
        instances.append(instance)
        self._requests.setdefault(instance, set()).add(request)
        return True

    def at(self, instance: str) -> list[K]:
        """The requests that this process has, or had."""
        return list(self._requests.get(instance, ()))

    def forget(self, request: K) -> None:
        """The request is over."""
        for instance in self._instances.pop(request, ()):
            requests = self._requests.get(instance)
            if requests is not None:
                requests.discard(request)
                if not requests:
                    del self._requests[instance]
