"""The engine of a client that reads too slowly is held, wherever its stream goes, and let go when it has read.

A stream says by itself when it has too much unread; `gateway` says when who runs it may not have heard of that.
"""

from broker_controller.decisions import Stage
from broker_controller.links import Links
from broker_controller.streams import GenerationStream
from broker_wire.messages import Pause, Resume


class SlowReaders:
    """Of one controller process."""

    def __init__(self, controller_id: str, links: Links) -> None:
        self._controller_id = controller_id
        self._links = links

    def set_flow(self, stream: GenerationStream, flows: bool) -> None:
        """Let its engine go on, or hold it. Nothing to do while no worker runs it."""
        life = stream.life
        if life.stage is not Stage.RUNNING:
            return
        kind = Resume if flows else Pause
        key = self._links.topology.instance_key(life.instance)
        self._links.send_control(key, kind(self._controller_id, life.stream))

    def on_start(self, stream: GenerationStream) -> None:
        """The worker that has it now, or only now starts it, has not heard that its client reads too slowly."""
        if stream.paused:
            self.set_flow(stream, False)

    def repeat(self, stream: GenerationStream) -> None:
        """What was said while either side had no connection was not heard."""
        if stream.was_paused:
            self.set_flow(stream, not stream.paused)
