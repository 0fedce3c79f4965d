"""Asks a controller what it sees. Used by `commands`."""

import httpx
import msgspec

from broker_controller.http.answer_types import Status

TIMEOUT = 10.0
"""Seconds for one answer."""


class AskError(Exception):
    """The controller did not say; the text says why and what to do."""


def ask_status(url: str) -> bytes:
    """`/status`, as it came. Raises: AskError."""
    try:
        answer = httpx.get(f"{url}/status", timeout=TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AskError(f"no controller answers at {url} ({error}): name another one with --url") from error
    if answer.status_code != httpx.codes.OK:
        raise AskError(f"{url} answered {answer.status_code}: is it a controller of this kind?")
    return answer.content


def read_status(url: str, body: bytes) -> Status:
    """Raises: AskError."""
    try:
        return msgspec.json.decode(body, type=Status)
    except msgspec.DecodeError as error:
        raise AskError(f"what {url} says cannot be read: is it a controller of this version? ({error})") from error
