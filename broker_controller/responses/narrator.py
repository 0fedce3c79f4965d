"""Tells a chat's answer as the events of a response, and keeps the response as it is by then. Pure.

From the same beginning and the same chunks come the same events with the same numbers, at whichever controller: so a
response is kept as chunks, and whoever reads it from some event on counts them anew.
"""

from collections.abc import Sequence
from typing import Any

from broker_controller.errors import EngineError, ServiceError, client_text, code_of
from broker_controller.responses.deltas import CallDelta, Delta, Reason, TextDelta, deltas
from broker_controller.responses.request import ENGINES_OWN
from broker_wire.messages import End, Piece, Usage

Event = dict[str, Any]
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""A chat's reason of the end, and the response's for being incomplete."""


class Narrator:
    """Of one response. Every method returns the events that follow."""

    def __init__(self, response_id: str, created_at: float, fields: dict[str, Any]) -> None:
        self._tail = response_id.removeprefix("resp_")
        self._next = 0
        self._text: dict[str, Any] | None = None
        """The item of the message, and its parts so far."""
        self._texts: list[str] = []
        self._logprobs: list[Any] = []
        self._calls: dict[int, tuple[int, dict[str, Any], list[str]]] = {}
        self._reason = ""
        self._usage: Usage | None = None
        self._unreadable: EngineError | None = None
        self._has_begun = False
        self.over = False
        self.response: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "created_at": int(created_at),
            "status": "queued" if fields["background"] else "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            **{name: value for name, value in fields.items() if name != ENGINES_OWN},
        }

    def created(self) -> list[Event]:
        """It is known."""
        events = [self._about_all("response.created")]
        if self.response["status"] == "queued":
            events.append(self._about_all("response.queued"))
        return events

    def begun(self) -> list[Event]:
        """It is run; again, if another controller goes on with it: then nothing is said."""
        if self._has_begun:
            return []
        self._has_begun = True
        self.response["status"] = "in_progress"
        return [self._about_all("response.in_progress")]

    def tell(self, items: Sequence[str | Piece | End]) -> list[Event]:
        """Chunks came; after an `End` nothing does."""
        events: list[Event] = []
        for item in items:
            try:
                for delta in deltas(item):
                    self._take(delta, events)
            except EngineError as error:
                self._unreadable = self._unreadable or error
            if isinstance(item, End):
                events += self._complete()
        return events

    def fail(self, error: ServiceError) -> list[Event]:
        """It went wrong."""
        return self.end_as("failed", code_of(error), client_text(error))

    def end_as(self, status: str, code: str = "", message: str = "") -> list[Event]:
        """Over before its answer was complete: `failed` with an error, or `cancelled`.

        OpenAI has no event for a response that was cancelled: it ends as one that is incomplete, with its status.
        """
        self._close_items("incomplete")
        if status == "failed":
            self.response["error"] = {"code": code, "message": message}
        return [self._end(status, "response.failed" if status == "failed" else "response.incomplete")]

    # --- inside

    def _take(self, delta: Delta, events: list[Event]) -> None:
        match delta:
            case TextDelta(text, logprobs):
                self._add_text(text, logprobs, events)
            case CallDelta():
                self._add_call(delta, events)
            case Reason(reason):
                self._reason = self._reason or reason
            case Usage():
                self._usage = delta

    def _add_text(self, text: str, logprobs: list[Any], events: list[Event]) -> None:
        item = self._text
        if item is None:
            item = {"id": f"msg_{self._tail}", "type": "message", "status": "in_progress", "role": "assistant"}
            item = self._text = item | {"content": []}
            events.append(self._about_item("response.output_item.added", self._add_item(item), item=_copy(item)))
            item["content"].append({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
            events.append(self._about_text("response.content_part.added", part=dict(item["content"][0])))
        self._texts.append(text)
        self._logprobs += logprobs
        events.append(self._about_text("response.output_text.delta", delta=text, logprobs=logprobs))

    def _add_call(self, delta: CallDelta, events: list[Event]) -> None:
        known = self._calls.get(delta.index)
        if known is None:
            tail = f"{self._tail}_{len(self._calls)}"
            item = {
                "id": f"fc_{tail}",
                "type": "function_call",
                "status": "in_progress",
                "call_id": delta.call_id or f"call_{tail}",
                "name": delta.name,
                "arguments": "",
            }
            known = self._calls[delta.index] = (self._add_item(item), item, [])
            events.append(self._about_item("response.output_item.added", known[0], item=dict(item)))
        place, item, arguments = known
        if delta.arguments:
            arguments.append(delta.arguments)
            kind = "response.function_call_arguments.delta"
            events.append(self._about_item(kind, place, item_id=item["id"], delta=delta.arguments))

    def _complete(self) -> list[Event]:
        if self._unreadable is not None:
            return self.fail(self._unreadable)
        if self._usage is not None:
            self.response["usage"] = usage_of(self._usage)
        reason = _INCOMPLETE.get(self._reason)
        self._close_items("completed" if reason is None else "incomplete")
        events = [event for item in self.response["output"] for event in self._done(item)]
        if reason is None:
            return [*events, self._end("completed", "response.completed")]
        self.response["incomplete_details"] = {"reason": reason}
        return [*events, self._end("incomplete", "response.incomplete")]

    def _fill_items(self) -> None:
        """What was said so far, in its places."""
        if self._text is not None:
            self._text["content"][0] |= {"text": "".join(self._texts), "logprobs": list(self._logprobs)}
        for _, item, arguments in self._calls.values():
            item["arguments"] = "".join(arguments)

    def _close_items(self, status: str) -> None:
        self._fill_items()
        for item in self.response["output"]:
            item["status"] = status

    def _done(self, item: dict[str, Any]) -> list[Event]:
        place = self.response["output"].index(item)
        if item["type"] == "function_call":
            named = {"item_id": item["id"], "name": item["name"], "arguments": item["arguments"]}
            events = [self._about_item("response.function_call_arguments.done", place, **named)]
        else:
            part = item["content"][0]
            events = [
                self._about_text("response.output_text.done", text=part["text"], logprobs=part["logprobs"]),
                self._about_text("response.content_part.done", part=dict(part)),
            ]
        return [*events, self._about_item("response.output_item.done", place, item=_copy(item))]

    def _add_item(self, item: dict[str, Any]) -> int:
        self.response["output"].append(item)
        return len(self.response["output"]) - 1

    def _end(self, status: str, kind: str) -> Event:
        self.over = True
        self.response["status"] = status
        return self._about_all(kind)

    def _about_text(self, kind: str, **more: Any) -> Event:
        item = self._text
        assert item is not None  # noqa: S101, there is a text
        place = self.response["output"].index(item)
        return self._about_item(kind, place, item_id=item["id"], content_index=0, **more)

    def _about_item(self, kind: str, place: int, **more: Any) -> Event:
        return self._event(kind, output_index=place, **more)

    def _about_all(self, kind: str) -> Event:
        return self._event(kind, response=self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """The response as it is now, apart from what it will be."""
        self._fill_items()
        return {**self.response, "output": [_copy(item) for item in self.response["output"]]}

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._next = self._next, self._next + 1
        return {"type": kind, "sequence_number": number, **fields}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Token counts, as responses have them."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    return item if "content" not in item else {**item, "content": [dict(part) for part in item["content"]]}
