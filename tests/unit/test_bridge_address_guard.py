"""Which addresses may register as HTTP workers, and where they are called afterwards."""

import logging
from collections.abc import Sequence

import pytest

from broker_controller.address_guard import AddressGuard, parse_networks
from broker_controller.errors import AddressRefusedError, BadRequestError


class Names:
    """A resolver that answers from a table, and counts."""

    def __init__(self, **table: list[str]) -> None:
        self.table = table
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.table:
            raise OSError("unknown name")
        return self.table[host]


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:21002", "http://127.0.0.1:21002"),
        ("http://[::1]:21002/", "http://[::1]:21002"),
        ("http://127.9.8.7/sub/", "http://127.9.8.7:80/sub"),
        ("http://[::ffff:127.0.0.1]:21002", "http://127.0.0.1:21002"),
        ("http://2130706433:21002", "http://127.0.0.1:21002"),
    ],
)
async def test_a_worker_on_this_machine_may_register(url: str, base: str) -> None:
    admitted = await AddressGuard().admit(url)

    assert admitted.bases == (base,)
    assert admitted.url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.7:21002",
        "http://169.254.169.254/latest",
        "http://0.0.0.0:21002",
        "http://[::ffff:192.0.2.7]:21002",
        "http://[fe80::1]:21002",
        "http://user:secret@127.0.0.1:21002",
        "http://127.0.0.1:21002@192.0.2.7",
    ],
)
async def test_any_other_address_is_refused_and_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(AddressRefusedError):
        await AddressGuard().admit(url)

    assert url in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "worker-1",
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#a",
        "http://[::1",
        "http://[fe80::1%25lo]:1",
        "http://127.0.0.1 :1",
        "http://127.0.0.1:1/\x01",
        "http://b\u00fccher.example:1",
        "http://127.0.0.1/" + "a" * 200,
        "http://nowhere.invalid:1",
    ],
)
async def test_what_is_no_address_of_a_worker_is_a_bad_request(url: str) -> None:
    with pytest.raises(BadRequestError):
        await AddressGuard(resolve=Names()).admit(url)


async def test_every_address_of_a_name_has_to_be_allowed() -> None:
    guard = AddressGuard(resolve=Names(both=["127.0.0.1", "192.0.2.7"]))

    with pytest.raises(AddressRefusedError, match=r"192\.0\.2\.7"):
        await guard.admit("http://both:1")


async def test_a_name_is_resolved_once_and_its_worker_is_called_by_address_with_the_names_headers() -> None:
    names = Names(gpu=["10.0.0.5", "10.0.0.5", "10.0.0.6"])
    guard = AddressGuard(parse_networks(["10.0.0.0/8"]), names)

    admitted = await guard.admit("https://gpu:8443/w")

    assert names.asked == ["gpu"]
    assert admitted.bases == ("https://10.0.0.5:8443/w", "https://10.0.0.6:8443/w")
    assert admitted.host_header == "gpu:8443"
    assert admitted.server_name == "gpu"


def test_an_allow_list_is_read_from_settings_or_refused_with_a_sentence() -> None:
    assert [str(network) for network in parse_networks(["10.0.0.0/8", " ::1 "])] == ["10.0.0.0/8", "::1/128"]
    with pytest.raises(ValueError, match=r"'10\.0\.0\.1/8' is no network"):
        parse_networks(["10.0.0.1/8"])
