"""What a stream of server-sent events says beside its events: comments, which clients skip.

`events` and `response_events` write their events between them.
"""

import math

from broker_controller.forecast import Outlook
from broker_controller.http.origin import printable, start_comment
from broker_controller.streams import StartInfo

HOLD = 5.0
"""Seconds for which the status waits for the first chunk: longer, and a proxy or client may think nobody is here."""


class CommentWriter:
    """The half of an `AnswerWriter` that all streams of events have."""

    content_type = b"text/event-stream; charset=utf-8"
    hold = HOLD
    bytes_per_second = None
    comment_end = b"\n\n"
    """After a comment's text. An empty line more ends an event that has none, which clients pass over."""

    def keepalive(self, outlook: Outlook | None) -> bytes:
        """A comment line, with the place in the queue where there is one."""
        if outlook is None:
            return b": waiting" + self.comment_end
        forecast = b"" if outlook.seconds is None else b" forecast=%ds" % math.ceil(outlook.seconds)
        return b": waiting about place=%d of %d%b%b" % (outlook.place, outlook.length, forecast, self.comment_end)

    def leaves(self, worker: str) -> bytes:
        """A comment line."""
        return b": moving from=%b%b" % (printable(worker), self.comment_end)

    def goes_on(self, start: StartInfo) -> bytes:
        """A comment line."""
        return b": moved worker=%b attempts=%d%b" % (printable(start.worker), start.attempts, self.comment_end)

    def came_from(self, start: StartInfo) -> bytes:
        """A comment line."""
        return b": %b%b" % (start_comment(start), self.comment_end)
