"""Which event loop the worker's threads use: uvloop where it is installed, for it moves bytes with less work."""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop for the calling thread or another; uvloop is in the extra `server`, and nothing depends on it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
