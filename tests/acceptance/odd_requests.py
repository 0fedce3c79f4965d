"""Requests that no client library sends, as bytes. Used by `test_raw_http`."""

LONG = 100_000
BODY = b'{"model": "m", "prompt": "a b", "max_tokens": 2}'


def post(*headers: bytes, body: bytes = BODY) -> bytes:
    head = b"\r\n".join([b"POST /v1/completions HTTP/1.1", b"Host: h", b"Content-Type: application/json", *headers])
    return head + b"\r\n\r\n" + body


NONSENSE = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "another protocol": b"AMQP\x00\x00\x09\x01\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/9.9\r\nHost: h\r\n\r\n",
    "an unknown method": b"BREW /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    "a method with control characters": b"G\x00T /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    "a method that is not for this path": b"DELETE /v1/completions HTTP/1.1\r\nHost: h\r\n\r\n",
    "the method of a tunnel": b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a path that is not UTF-8": b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n",
    "an encoded path that is not UTF-8": b"GET /v1/models/%ff%fe%c3 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a worker's name that is not UTF-8": b"POST /worker/%ff%00/worker_get_status HTTP/1.1\r\nHost: h\r\n"
    b"Content-Length: 0\r\n\r\n",
    "a path with a NUL": b"GET /v1/models/%00 HTTP/1.1\r\nHost: h\r\n\r\n",
    "an endless path": b"GET /" + b"a" * LONG + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "an endless header": b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * LONG,
    "an endless name of a header": b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + b"a" * LONG,
    "endlessly many headers": b"GET /healthz HTTP/1.1\r\nHost: h\r\n"
    + b"".join(b"X-%d: a\r\n" % i for i in range(LONG // 9)),
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: h\r\nnothing\r\n\r\n",
    "a header with a NUL": b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: a\x00b\r\n\r\n",
    "a length that is no number": post(b"Content-Length: many"),
    "a negative length": post(b"Content-Length: -1"),
    "a length beyond 64 bits": post(b"Content-Length: 99999999999999999999999"),
    "a length that is too large": post(b"Content-Length: 999999999999"),
    "two lengths": post(b"Content-Length: 4", b"Content-Length: %d" % len(BODY)),
    "a length beside chunks": post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "a length that cuts the body": post(b"Content-Length: 10"),
    "chunks without a size": post(b"Transfer-Encoding: chunked", body=b"zz\r\n" + BODY),
    "a chunk of a negative size": post(b"Transfer-Encoding: chunked", body=b"-5\r\nabcde\r\n0\r\n\r\n"),
    "a chunk of a size beyond 64 bits": post(b"Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\nabc"),
    "a chunk longer than it says": post(b"Transfer-Encoding: chunked", body=b"3\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk that ends without a line break": post(b"Transfer-Encoding: chunked", body=b"1\r\n{}0\r\n\r\n"),
    "a chunk whose size has a sign": post(b"Transfer-Encoding: chunked", body=b"+2\r\n{}\r\n0\r\n\r\n"),
    "a chunk whose size has a prefix": post(b"Transfer-Encoding: chunked", body=b"0x2\r\n{}\r\n0\r\n\r\n"),
    "chunks with bare line feeds": post(b"Transfer-Encoding: chunked", body=b"2\n{}\n0\n\n"),
    "a length among the trailers": post(
        b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n"
    ),
    "an unknown encoding": post(b"Transfer-Encoding: gzip"),
    "a body that is not UTF-8": post(b"Content-Length: 4", body=b"\xff\xfe\xfd\xfc"),
    "an expectation beside an unreadable body": post(b"Expect: 100-continue", b"Content-Length: 3", body=b"{{{"),
}


EMPTY = b"0\r\n\r\n"
TWO_READINGS = {
    "a length beside chunks": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=EMPTY),
    "chunks beside a length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=EMPTY),
    "two lengths": post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"),
    "the same length twice": post(b"Content-Length: 0", b"Content-Length: 0", body=b""),
    "a list of lengths": post(b"Content-Length: 0, 5", body=b"hello"),
    "a length with a sign": post(b"Content-Length: +5", body=b"hello"),
    "a length in another base": post(b"Content-Length: 0x5", body=b"hello"),
    "no length": post(b"Content-Length: ", body=b""),
    "a space before the colon of a length": post(b"Content-Length : 5", body=b"hello"),
    "a space before the colon of an encoding": post(b"Transfer-Encoding : chunked", body=EMPTY),
    "a second encoding": post(b"Transfer-Encoding: gzip, chunked", body=EMPTY),
    "a second encoding after the chunks": post(b"Transfer-Encoding: chunked, gzip", body=EMPTY),
    "no encoding and chunks": post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=EMPTY),
    "chunks twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=EMPTY),
    "an encoding that looks like chunks": post(b"Transfer-Encoding: \x0bchunked", body=EMPTY),
    "an encoding on a line of its own": post(b"Transfer-Encoding:\r\n chunked", body=EMPTY),
    "chunks in HTTP/1.0": post(b"Transfer-Encoding: chunked", body=EMPTY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "bare line feeds": post(b"Content-Length: 0", body=b"").replace(b"\r\n", b"\n"),
    "a bare line feed in a header": post(b"X-A: a\nContent-Length: 5", b"Content-Length: 0", body=b""),
    "a bare carriage return in a header": post(b"X-A: a\rContent-Length: 5", b"Content-Length: 0", body=b""),
    "a NUL in a header": post(b"X-A: a\x00b", b"Content-Length: 0", body=b""),
    "a control character in a header": post(b"X-A: a\x01b", b"Content-Length: 0", body=b""),
    "a NUL in the name of a header": post(b"X\x00A: a", b"Content-Length: 0", body=b""),
    "a header without a name": post(b": a", b"Content-Length: 0", body=b""),
    "two hosts": post(b"Host: elsewhere", b"Content-Length: 0", body=b""),
}
"""What one program may take for one request and another for two, or for one of another host."""
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
UNUSUAL = {
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", 1),
    "a proxy's target": (b"GET http://elsewhere:1/healthz?a=b HTTP/1.1\r\nHost: h\r\n\r\n", 2),
    "to be closed": (b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 1),
    "a body to a GET": (b"GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", 2),
    "line breaks before it": (b"\r\n\r\n" + HEALTHZ, 2),
}
"""With the number of answers to it and to a HEALTHZ after it."""
