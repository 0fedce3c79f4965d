"""Three RabbitMQ nodes as one cluster on this machine; any of them may be killed and started again."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from broker_controller.held_port import HeldPort
from broker_controller.private_node import Membership, PrivateNode

SIZE = 3


class Cluster:
    """A context manager. `nodes` are in the order of their start; all have joined the first one."""

    def __init__(self) -> None:
        self._port, cookie = HeldPort(), secrets.token_hex(16)
        port = self._port.number
        first = PrivateNode(membership=Membership("127.0.0.1", port, cookie))
        self.nodes = [first]
        for number in range(2, SIZE + 1):
            membership = Membership(f"127.0.0.{number}", port, cookie, seed=first.name)
            self.nodes.append(PrivateNode(membership=membership))

    def __enter__(self) -> Self:
        try:
            self.nodes[0].start()
            with ThreadPoolExecutor() as threads:
                list(threads.map(PrivateNode.start, self.nodes[1:]))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all nodes."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(PrivateNode.close, self.nodes))
        self._port.close()

    def urls(self, first: PrivateNode) -> str:
        """All addresses for a program that is to prefer one of them."""
        others = [node for node in self.nodes if node is not first]
        return ",".join(node.url for node in (first, *others))
