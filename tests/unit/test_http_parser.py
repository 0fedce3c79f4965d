"""The client's half of HTTP/1.1, without a socket: what is an answer, where it ends, and what is refused."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers_shim.engines.http_parser import MAX_CHUNK_HEAD, MAX_HEAD, MalformedError, ResponseParser


def parse(data: bytes, *, ends: bool = False) -> tuple[ResponseParser, bytes]:
    parser = ResponseParser()
    body = b"".join(parser.feed(data))
    if ends:
        parser.feed_end()
    return parser, body


def test_a_body_of_a_said_length_ends_there() -> None:
    parser, body = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello")

    assert parser.head is not None
    assert (parser.head.status, parser.head.fields["x"]) == (200, "y")
    assert body == b"hello"
    assert parser.complete
    assert parser.reusable


def test_a_chunked_body_ends_with_an_empty_chunk_and_its_trailer() -> None:
    parser, body = parse(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"5;name=value\r\nhello\r\nA \r\n, the rest\r\n0\r\nX: y\r\n\r\n"
    )

    assert body == b"hello, the rest"
    assert parser.reusable


def test_each_chunk_is_given_as_soon_as_a_part_of_it_is_there() -> None:
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    assert parser.feed(b"5\r\nhe") == [b"he"]
    assert parser.feed(b"llo\r\n1\r\n") == [b"llo"]
    assert parser.feed(b"!\r\n") == [b"!"]
    assert not parser.complete


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    parser, body = parse(b"HTTP/1.1 200 OK\r\n\r\nto the end", ends=True)

    assert body == b"to the end"
    assert parser.complete
    assert not parser.reusable


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_answers_have_no_body_whatever_they_say(status: bytes) -> None:
    parser, body = parse(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")

    assert parser.complete
    assert body == b""


def test_interim_answers_are_passed_over() -> None:
    parser, body = parse(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!"
    )

    assert parser.head is not None
    assert parser.head.status == 200
    assert "link" not in parser.head.fields
    assert body == b"!"


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.1 200\r\n", True),
    ],
)
def test_the_server_says_whether_the_connection_stays(head: bytes, reusable: bool) -> None:
    parser, _ = parse(head + b"Content-Length: 0\r\n\r\n")

    assert parser.complete
    assert parser.reusable is reusable


def test_what_comes_after_the_answer_makes_the_connection_useless() -> None:
    parser, body = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!HTTP/1.1 200")

    assert body == b"!"
    assert parser.complete
    assert not parser.reusable


def test_lines_may_end_without_a_carriage_return_and_values_go_on_in_the_next_line() -> None:
    parser, body = parse(b"HTTP/1.1 200 OK\nA: 1\n  2\nA: 3\nContent-Length: 2\n\nok")

    assert parser.head is not None
    assert parser.head.fields["a"] == "1 2, 3"
    assert body == b"ok"


def test_a_length_and_chunks_at_once_are_read_as_chunks_and_the_connection_is_not_used_again() -> None:
    parser, body = parse(
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n!\r\n0\r\n\r\n"
    )

    assert body == b"!"
    assert parser.complete
    assert not parser.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: first\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\n!\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n!!\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * MAX_CHUNK_HEAD,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: x\r\n" * MAX_HEAD,
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
)
def test_an_answer_that_stops_early_is_no_answer(data: bytes) -> None:
    with pytest.raises(MalformedError, match="closed"):
        parse(data, ends=True)


FIELD = st.tuples(
    st.from_regex(rb"[a-z][a-z0-9-]{0,10}", fullmatch=True).filter(
        lambda name: name not in (b"content-length", b"transfer-encoding", b"connection")
    ),
    st.from_regex(rb"[!-~]([ -~]{0,10}[!-~])?", fullmatch=True),
)


@st.composite
def written_by_h11(draw: st.DrawFn) -> tuple[int, bytes, bytes, bool]:
    """An answer as a server on h11 writes it: status, body, bytes, and whether the end of the connection ends it."""
    server = h11.Connection(h11.SERVER)
    minor = draw(st.sampled_from([b"1.1", b"1.0"]))
    server.receive_data(b"POST / HTTP/" + minor + b"\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    server.next_event()
    server.next_event()
    pieces = draw(st.lists(st.binary(max_size=50), max_size=5))
    body = b"".join(pieces)
    status = draw(st.sampled_from([200, 201, 404, 500]))
    fields = draw(st.lists(FIELD, max_size=4))
    counted = draw(st.booleans())
    if counted:
        fields.append((b"content-length", b"%d" % len(body)))
    written = server.send(h11.Response(status_code=status, headers=fields)) or b""
    for piece in pieces:
        written += server.send(h11.Data(data=piece)) or b""
    written += server.send(h11.EndOfMessage()) or b""
    return status, body, written, minor == b"1.0" and not counted


@given(written_by_h11(), st.data())
def test_what_h11_writes_is_read_however_it_is_cut(answer: tuple[int, bytes, bytes, bool], data: st.DataObject) -> None:
    status, body, written, by_close = answer
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=8)))
    parser = ResponseParser()
    read = []
    for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True):
        read += parser.feed(written[start:end])
    if by_close:
        assert not parser.complete
        parser.feed_end()

    assert parser.head is not None
    assert parser.head.status == status
    assert b"".join(read) == body
    assert parser.complete


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        try:
            parse(start + data, ends=True)
        except MalformedError:
            continue
