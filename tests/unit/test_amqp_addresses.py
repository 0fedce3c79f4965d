"""Addresses of the broker as operators write them."""

from pathlib import Path

import pytest

from broker_wire.amqp.addresses import Endpoint, TLSFiles, parse_broker_url


def only(text: str) -> Endpoint:
    (endpoint,) = parse_broker_url(text).endpoints
    return endpoint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://", Endpoint("localhost", 5672, "/", "guest", "guest", False)),
        ("amqp://h", Endpoint("h", 5672, "/", "guest", "guest", False)),
        ("amqp://h/", Endpoint("h", 5672, "/", "guest", "guest", False)),
        ("amqp://h/%2F", Endpoint("h", 5672, "/", "guest", "guest", False)),
        ("amqp://u:p@h:1/v", Endpoint("h", 1, "v", "u", "p", False)),
        ("amqp://u:p%40%2C%2F@h/a%2Fb", Endpoint("h", 5672, "a/b", "u", "p@,/", False)),
        ("amqp://u:@h", Endpoint("h", 5672, "/", "u", "", False)),
        ("amqps://h", Endpoint("h", 5671, "/", "guest", "guest", True)),
        ("amqp://[::1]:7/v", Endpoint("::1", 7, "v", "guest", "guest", False)),
    ],
)
def test_an_address_is_read(text: str, expected: Endpoint) -> None:
    assert only(text) == expected


def test_several_addresses_are_the_nodes_of_one_cluster() -> None:
    addresses = parse_broker_url("amqp://a:1/v, amqp://b:2/v ,")
    assert [(endpoint.host, endpoint.port) for endpoint in addresses.endpoints] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("text", ["", " , ", "localhost:5672", "http://h", "amqp://h:port", "amqp://h:99999"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="amqp://user:password@host:5672/vhost"):
        parse_broker_url(text)


def test_options_in_the_address_are_refused_and_not_ignored() -> None:
    with pytest.raises(ValueError, match="options"):
        parse_broker_url("amqp://h/?heartbeat=3")


@pytest.mark.parametrize(
    "text",
    [
        "http://user:sesame@h",
        "amqp://user:sesame@h:bad",
        "amqp://user:sesame@h/?x=1",
        "user:sesame@h",
        "amqp://user:sesame,rest@h",
        "amqp://user:sesame/rest@h",
        "amqp://user:sesame#rest@h",
    ],
)
def test_a_refusal_never_shows_the_password(text: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011, the text is what is looked at
        parse_broker_url(text)
    assert "sesame" not in str(refusal.value)


def test_what_is_printed_has_no_password() -> None:
    addresses = parse_broker_url("amqp://user:sesame@[::1]:1/a%2Fb,amqps://user:sesame@h")
    assert addresses.safe() == "amqp://user@[::1]:1/a%2Fb,amqps://user@h:5671/"
    assert "sesame" not in repr(addresses)


def test_tls_files_without_a_tls_address_are_refused() -> None:
    with pytest.raises(ValueError, match="amqps"):
        parse_broker_url("amqp://h", TLSFiles(ca=Path("/etc/ca.pem")))


def test_a_missing_tls_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"/nowhere/ca\.pem"):
        parse_broker_url("amqps://h", TLSFiles(ca=Path("/nowhere/ca.pem")))


def test_a_ca_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"ca\.pem"):
        parse_broker_url("amqps://h", TLSFiles(ca=path))


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("hello")
    with pytest.raises(ValueError, match="without its certificate"):
        parse_broker_url("amqps://h", TLSFiles(key=key))
