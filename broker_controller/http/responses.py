"""OpenAI's Responses API: create, in the background too, and fetch, follow, cancel and delete what is kept."""

from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Struct

from broker_controller.errors import NOT_QUEUED, BadRequestError, ResponseNotFoundError, Subject
from broker_controller.http.bodies import BodyReader, check_model
from broker_controller.http.call import Call, EndedByClient
from broker_controller.http.documentation import responses as docs
from broker_controller.http.errors import openai_style
from broker_controller.http.openai import TAG
from broker_controller.http.response_events import ResponseWriter, encode_events, error_event
from broker_controller.http.routes import CallRoute
from broker_controller.http.services import Services
from broker_controller.http.streaming import KEEPALIVE_INTERVAL, STREAM_HEADERS, stream_answer, whole_answer
from broker_controller.image_urls import check_urls
from broker_controller.responses.chat import chat_body
from broker_controller.responses.keeper import Follower, new_id
from broker_controller.responses.narrator import Narrator
from broker_controller.responses.paging import page_of
from broker_controller.responses.request import Asked, ResponseBody, check, engines_own
from broker_controller.responses.shelf import Kept, Reading
from broker_wire.messages import Operation

_read = BodyReader(ResponseBody).read


def _nothing(_: object) -> None: ...


_MOST_DIGITS = 18
"""Of an event's number; no response has so many."""
_KEEPALIVE = b": waiting" + ResponseWriter.comment_end


def response_routes(services: Services) -> list[CallRoute]:
    """All of them."""
    surface = _Responses(services)
    route = partial(CallRoute, style=openai_style, tag=TAG)
    one = "/v1/responses/{response_id}"
    return [
        route("/v1/responses", surface.create, docs=docs.CREATE),
        route(one, surface.get, docs=docs.GET, method="GET"),
        route(one, surface.delete, docs=docs.DELETE, method="DELETE"),
        route(f"{one}/cancel", surface.cancel, docs=docs.CANCEL),
        route(f"{one}/input_items", surface.input_items, docs=docs.INPUT_ITEMS, method="GET"),
    ]


class _Responses(Struct, frozen=True):
    services: Services

    async def create(self, call: Call) -> None:
        """Raises: ServiceError, ClientLeftError."""
        keeper = self.services.keeper
        call.subject = Subject(call.request_id, stage=NOT_QUEUED)
        raw = await self.services.read_body(call)
        body = _read(raw)
        model = check_model(body.model)
        call.subject = Subject(call.request_id, model, NOT_QUEUED)
        response_id = new_id()
        asked = check(body, response_id, engines_own(raw))
        items = [*await keeper.conversation(body.previous_response_id), *asked.items]
        if not body.background:
            await self._answer(call, response_id, asked, items)
            return
        check_urls(chat_body(response_id, asked.fields, items), self.services.settings.allow_image_url)
        self.services.gateway.door.check(len(raw))
        kept = await keeper.begin(response_id, asked, items)
        if body.stream:
            await self._follow(call, kept, after=-1)
        else:
            await call.respond_json(Reading(kept).response())

    async def get(self, call: Call) -> None:
        """Raises: ServiceError."""
        kept = await self._find(call)
        query = _query(call)
        if query.get("stream", "false").lower() in ("true", "1"):
            last = call.header(b"last-event-id")
            after = query.get("starting_after") or (last.decode("latin-1") if last else None)
            await self._follow(call, kept, -1 if after is None else _number(after))
        else:
            await call.respond_json(Reading(kept).response())

    async def cancel(self, call: Call) -> None:
        """Raises: ServiceError."""
        kept = await self._find(call)
        await self.services.keeper.cancel(kept)
        await call.respond_json(Reading(kept).response())

    async def delete(self, call: Call) -> None:
        """Raises: ServiceError."""
        kept = await self._find(call)
        await self.services.keeper.delete(kept)
        await call.respond_json({"id": kept.created.id, "object": "response", "deleted": True})

    async def input_items(self, call: Call) -> None:
        """Raises: ServiceError."""
        kept = await self._find(call)
        items = msgspec.json.decode(kept.created.items, type=list[dict[str, Any]])
        await call.respond_json(page_of(items, _query(call)))

    # --- inside

    async def _find(self, call: Call) -> Kept:
        return await self.services.keeper.find(call.path_parameter("response_id"))

    async def _answer(self, call: Call, response_id: str, asked: Asked, items: list[dict[str, object]]) -> None:
        """Answer the client that asks, which has to stay for it."""
        created = self.services.keeper.created(response_id, asked, items)
        live = self.services.keeper.live(created) if asked.body.stores else None
        stream = await self.services.submit(
            call, asked.body.model, Operation.CHAT, chat_body(response_id, asked.fields, items)
        )
        narrator = Narrator(response_id, created.at, asked.fields)
        writer = ResponseWriter(narrator, _nothing if live is None else live.say)

        async def on_end() -> None:
            if live is not None and writer.end is not None:
                await live.end(writer.end)

        try:
            if asked.body.stream:
                await stream_answer(call, stream, writer, on_end)
            else:
                await whole_answer(call, stream, writer.encode_whole, on_end)
        finally:
            if live is not None:
                live.left()

    async def _follow(self, call: Call, kept: Kept, after: int) -> None:
        """Events after this number, as they come, until the end."""
        reading = Reading(kept)
        number = after
        with EndedByClient(call.client), Follower(kept) as follower:
            await call.start(200, [(b"content-type", ResponseWriter.content_type), *STREAM_HEADERS])
            while not reading.over and not kept.forgotten:
                events = [event for event in reading.news() if event["sequence_number"] > after]
                if events:
                    number = events[-1]["sequence_number"]
                    await call.write(encode_events(events))
                if not reading.over and not await follower.wait(KEEPALIVE_INTERVAL):
                    await call.write(_KEEPALIVE)
            last = b""
            if not reading.over:
                error = ResponseNotFoundError(f"the response {kept.created.id!r} is not kept any more")
                last = encode_events([error_event(error, number + 1)])
            await call.write(last, last=True)


def _query(call: Call) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(call.query).items()}


def _number(text: str) -> int:
    """Raises: BadRequestError."""
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise BadRequestError(f"`starting_after` has to be the number of an event, not {text[:40]!r}")
    return int(text)
