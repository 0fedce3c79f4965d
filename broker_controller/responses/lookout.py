"""Whether another controller is there; and the end of what one answered that is not there any more.

Of the responses in the background `runner` takes care: somebody holds their job.
"""

import asyncio
import logging
import time
from collections import Counter

from broker_controller.errors import Subject, WorkerLostError
from broker_controller.links import Links
from broker_controller.responses.log import ResponseLog
from broker_controller.responses.records import failed
from broker_wire.amqp.channel import Outcome
from broker_wire.errors import NotConnectedError

_log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks."""
GONE_AFTER = 3
"""Looks in a row that did not find it: it may be about to reconnect, and then its workers still have the answer."""
LOOK_TIMEOUT = 60.0
"""Seconds that the broker has for an answer."""


class Lookout:
    """Of one controller process."""

    def __init__(self, links: Links, log: ResponseLog) -> None:
        self._links = links
        self._log = log

    async def run(self) -> None:
        """Give an end to what has lost its controller in the middle, until cancelled."""
        missed: Counter[str] = Counter()
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            owners = self._owners()
            for controller in set(missed) - owners:
                del missed[controller]
            for controller in owners:
                missed[controller] = 0 if await self.is_there(controller) else missed[controller] + 1
                if missed[controller] >= GONE_AFTER:
                    self._end_all_of(controller)

    async def is_there(self, controller: str) -> bool:
        """Whether it has a reply queue. While the broker cannot be asked, it is thought to be there."""
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def on_outcome(outcome: Outcome) -> None:
            if not answered.done():
                answered.set_result(outcome)

        try:
            self._links.look_for_controller(controller, on_outcome)
            async with asyncio.timeout(LOOK_TIMEOUT):
                return await answered is not Outcome.RETURNED
        except (NotConnectedError, TimeoutError):
            return True

    def _owners(self) -> set[str]:
        """Other controllers that answer clients of their own at this moment."""
        unfinished = self._log.shelf.unfinished()
        owners = {kept.owner.controller for kept in unfinished if kept.owner and not kept.created.background}
        return owners - {self._log.controller_id}

    def _end_all_of(self, controller: str) -> None:
        for kept in self._log.shelf.unfinished():
            if kept.owner is None or kept.owner.controller != controller or kept.created.background:
                continue
            response_id = kept.created.id
            _log.warning("a response has lost its controller response=%s controller=%s", response_id, controller)
            subject = Subject(response_id, str(kept.fields["model"]))
            error = WorkerLostError("the controller that answered it was lost", subject=subject)
            self._log.note(failed(response_id, 0, error, time.time()))
