"""All answers of a worker on their way to the controllers: one message for each controller and tick, kept until done.

Engine threads append to their stream (`outgoing`) and wake this loop at most once a burst; a wake-up takes whatever is
there. While the broker is behind, nothing is taken, so the next message is simply larger. Every message is mandatory
and confirmed: what was returned or lost is kept and goes out again. `custody` hears what became of each stream.
"""

import asyncio
import logging
import threading
from collections import deque
from contextlib import suppress
from functools import partial

import msgspec

from broker_wire import codec
from broker_wire.amqp import Channel, Outcome
from broker_wire.errors import MessageTooLargeError, NotConnectedError
from broker_wire.messages import Ask, Batch, Failed, FailureKind, GivenBack, Gone, Started
from workers_shim.controller_links import ControllerLinks, Link
from workers_shim.draft import Draft
from workers_shim.outbox_listener import Note, OutboxListener
from workers_shim.outgoing import Outgoing

_log = logging.getLogger(__name__)

BATCH_BYTES = 256 * 1024
"""A message is cut here, so that one loud stream does not delay the first word of another for long."""
IN_FLIGHT_BYTES = 2 * 1024 * 1024
"""Published and not yet confirmed; above it streams keep their chunks, and their engines wait. Also bounds the socket's
buffer, since what is in there is not confirmed."""
MAX_NOTES = 10_000
"""Frames without a number that wait for the connection; more than any worker has slots."""

_BATCH = codec.type_of(Batch)


class Outbox:
    """One a worker."""

    def __init__(
        self,
        exchange: str,
        instance: str,
        loop: asyncio.AbstractEventLoop,
        links: ControllerLinks,
        listener: OutboxListener,
    ) -> None:
        """To be made on the loop's thread."""
        self.tokens_done = 0
        """Chunks that were sent, which for most engines are tokens."""
        self._exchange = exchange
        self._instance = instance
        self._loop = loop
        self._links = links
        self._listener = listener
        self._channel: Channel | None = None
        self._blocked = False
        self._in_flight = 0
        self._ready: deque[Outgoing] = deque()
        self._released: deque[Outgoing] = deque()
        self._notes: dict[str, list[Note]] = {}
        self._noted = 0
        self._nacked: list[Draft] = []
        # Set by whoever asks for a flush first, cleared by the flush before it looks.
        self._woken = False
        self._thread = threading.get_ident()

    # --- from any thread

    def ready(self, outgoing: Outgoing) -> None:
        """This stream has something to take."""
        self._ready.append(outgoing)
        self._wake()

    def released(self, outgoing: Outgoing) -> None:
        """This stream's engine has come back."""
        self._released.append(outgoing)
        self._wake()

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._wake_here()
        elif not self._woken:
            self._woken = True
            # The loop is closed only when the session is over: nobody is left who could be told.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._flush)

    # --- from the broker's loop

    def attach(self, channel: Channel) -> None:
        """Publish on this channel, with confirms; at once what could not go out before."""
        self._channel = channel
        self._blocked = False
        self._wake_here()

    def detach(self) -> None:
        """The channel is gone; its publishes have had their outcome."""
        self._channel = None

    def set_blocked(self, blocked: bool) -> None:
        """The broker holds publishers back: what would only fill a buffer stays in the streams."""
        self._blocked = blocked
        self._wake_here()

    def note(self, controller: str, note: Note) -> None:
        """Send a frame that is no part of an answer, at the end of this tick."""
        self._noted += 1
        if self._noted > MAX_NOTES:
            if self._noted == MAX_NOTES + 1:
                _log.warning("frames dropped controller=%s reason=too many wait for the broker", controller)
            return
        self._notes.setdefault(controller, []).append(note)
        self._wake_here()

    def controller_spoke(self, controller: str) -> None:
        """A sign of life: if its queue had gone, there is one again."""
        self._links.spoke(controller)

    def sweep(self) -> None:
        """Look at the grace times."""
        for outgoing in self._links.sweep():
            self._listener.on_abandoned(outgoing)
        # Tried again here and not at once: the broker has said that it cannot take them just now.
        nacked, self._nacked = self._nacked, []
        for draft in nacked:
            self._lost(draft)

    @property
    def quiet(self) -> bool:
        """Nothing waits, and nothing is in flight."""
        return not (self._in_flight or self._notes or self._ready or self._nacked)

    def _wake_here(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._flush)

    # --- out

    def _flush(self) -> None:
        self._woken = False
        while self._released:
            self._listener.on_released(self._released.popleft())
        channel = self._channel
        if channel is None or self._blocked:
            return
        drafts: dict[Link, Draft] = {}
        if self._notes:
            self._draft_notes(drafts)
        ready = self._ready
        budget = IN_FLIGHT_BYTES - self._in_flight
        # Not for as long as there are some: the engines may be faster than this loop.
        for _ in range(len(ready)):
            if budget <= 0:
                break
            outgoing = ready.popleft()
            budget -= self._draft_stream(outgoing, drafts, channel)
        for draft in drafts.values():
            self._publish(draft, channel)

    def _draft_notes(self, drafts: dict[Link, Draft]) -> None:
        noted, self._notes, self._noted = self._notes, {}, 0
        for controller, notes in noted.items():
            link = self._links.link(controller)
            draft = drafts[link] = Draft(link)
            draft.notes = notes
            draft.frames += notes

    def _draft_stream(self, outgoing: Outgoing, drafts: dict[Link, Draft], channel: Channel) -> int:
        """Returns: bytes taken."""
        if outgoing.dropped:
            return 0
        link = self._links.link(outgoing.controller)
        if link.gone:
            # Marked again as soon as the controller speaks.
            outgoing.unmark()
            return 0
        before = outgoing.next_seq
        sents, progress = outgoing.take()
        self.tokens_done += outgoing.next_seq - before
        draft = drafts.get(link)
        if draft is None:
            if not sents and progress is None:
                return 0
            draft = drafts[link] = Draft(link)
        if progress is not None:
            draft.frames.append(progress)
        taken = 0
        for sent in sents:
            draft.frames.append(sent.frame)
            draft.entries.append((outgoing, sent))
            draft.size += sent.size
            taken += sent.size
            if draft.size >= BATCH_BYTES:
                self._publish(draft, channel)
                draft = drafts[link] = Draft(link)
        if taken and not outgoing.dropped:
            self._links.retained(outgoing)
        return taken

    def _publish(self, draft: Draft, channel: Channel) -> None:
        if not draft.frames:
            return
        try:
            body = codec.encode(Batch(self._instance, draft.frames))
            channel.publish(
                self._exchange,
                draft.link.controller,
                body,
                type=_BATCH,
                mandatory=True,
                on_outcome=partial(self._on_outcome, draft, len(body)),
            )
        except NotConnectedError:
            self._lost(draft)
            return
        except (MessageTooLargeError, UnicodeEncodeError, msgspec.MsgspecError, ValueError, OverflowError) as error:
            # One frame cannot be carried: find it, and let the others through.
            self._publish_apart(draft, channel, error)
            return
        self._in_flight += len(body)
        draft.link.in_flight += 1

    def _publish_apart(self, draft: Draft, channel: Channel, error: Exception) -> None:
        singles = list(draft.singles())
        if len(singles) > 1:
            for single in singles:
                self._publish(single, channel)
            return
        _log.error("frame cannot be sent controller=%s reason=%s", draft.link.controller, error)
        for outgoing, sent in draft.entries:
            if isinstance(sent.frame, Failed):
                self._links.drop(outgoing)
                self._listener.on_abandoned(outgoing)
            else:
                outgoing.replace_by_failure(sent, FailureKind.ENGINE, f"a part of the answer cannot be sent: {error}")

    # --- outcomes

    def _on_outcome(self, draft: Draft, size: int, outcome: Outcome) -> None:
        self._in_flight -= size
        draft.link.in_flight -= 1
        match outcome:
            case Outcome.CONFIRMED:
                self._confirmed(draft)
            case Outcome.RETURNED:
                self._returned(draft)
            case Outcome.LOST:
                self._lost(draft)
            case Outcome.NACKED:
                self._nacked.append(draft)
        self._links.forget_if_idle(draft.link)
        if self._ready:
            self._wake_here()

    def _confirmed(self, draft: Draft) -> None:
        if draft.link.gone:
            # It has a queue again, although nothing was heard of it yet.
            self._links.spoke(draft.link.controller)
        for note in draft.notes:
            if isinstance(note, Started):
                self._listener.on_start_confirmed((draft.link.controller, note.stream), note)
        for outgoing, sent in draft.entries:
            if outgoing.dropped:
                continue
            outgoing.retention.confirm(sent)
            if outgoing.settled:
                self._links.ended(outgoing)
                self._listener.on_settled(outgoing)

    def _returned(self, draft: Draft) -> None:
        controller = draft.link.controller
        for outgoing, sent in draft.entries:
            if not outgoing.dropped:
                outgoing.retention.unsend(sent)
        self._links.lose(draft.link)
        for outgoing in {outgoing for outgoing, _ in draft.entries}:
            self._listener.on_held(outgoing)
        for note in draft.notes:
            if isinstance(note, Started | Ask):
                self._listener.on_note_returned((controller, note.stream), note)

    def _lost(self, draft: Draft) -> None:
        controller = draft.link.controller
        for outgoing, sent in draft.entries:
            if not outgoing.dropped:
                outgoing.retention.unsend(sent)
                outgoing.wake()
        for note in draft.notes:
            if isinstance(note, Gone | GivenBack) or (
                isinstance(note, Started | Ask) and self._listener.is_current((controller, note.stream), note)
            ):
                self.note(controller, note)
