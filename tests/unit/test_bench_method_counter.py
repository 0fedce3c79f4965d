"""The relay counts the AMQP methods that pass, and passes everything on unchanged."""

import asyncio
from collections import Counter

from benchmarks.method_counter import FROM_BROKER, FROM_CLIENT, CountingRelay, MethodCount

HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = bytes([8, 0, 0, 0, 0, 0, 0, 0xCE])


def method(class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    payload = class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big") + arguments
    return b"\x01\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce"


CONSUME, ACK, DELIVER, UNKNOWN = method(60, 20, b"queue"), method(60, 80), method(60, 60, b"tag" * 50), method(99, 1)
BODY = b"\x03\x00\x01" + (4).to_bytes(4, "big") + b"body" + b"\xce"


async def test_methods_are_counted_by_direction_however_the_bytes_are_cut() -> None:
    from_client = HEADER + CONSUME + ACK + ACK + HEARTBEAT + UNKNOWN
    from_broker = DELIVER + BODY + ACK
    received = asyncio.get_running_loop().create_future()

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.readexactly(len(from_client)))
        for byte in from_broker:
            writer.write(bytes([byte]))
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(broker, "127.0.0.1", 0)
    async with server, CountingRelay("127.0.0.1", server.sockets[0].getsockname()[1]) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        for byte in from_client:
            writer.write(bytes([byte]))
            await writer.drain()
        assert await reader.read() == from_broker
        assert await received == from_client
        writer.close()
        await writer.wait_closed()
    assert relay.counts == Counter(
        {
            MethodCount(FROM_CLIENT, "basic.consume"): 1,
            MethodCount(FROM_CLIENT, "basic.ack"): 2,
            MethodCount(FROM_CLIENT, "99.1"): 1,
            MethodCount(FROM_BROKER, "basic.deliver"): 1,
            MethodCount(FROM_BROKER, "basic.ack"): 1,
        }
    )
