"""The command line and the environment: what they mean, and how a mistake is told."""

from pathlib import Path
from typing import Any

import pytest

from broker_controller.address_guard import LOOPBACK
from broker_controller.cli import _service_config, main
from broker_controller.dispatch import DispatchMethod
from broker_controller.local_broker import BrokerChoice, RunningBroker
from broker_controller.options import ENVIRONMENT_PREFIX, SettingError
from broker_controller.responses.config import KeepConfig
from broker_controller.service import ControllerService
from broker_controller.settings import ModelSeconds, Settings, parse
from broker_wire.topology import QueueBounds, QueueType


def test_without_anything_the_defaults_hold() -> None:
    assert parse([], {}) == Settings()
    assert Settings().allow_http_workers == LOOPBACK
    assert Settings().http_worker_slots == 5


OPTIONS = [
    ("--host", "0.0.0.0", "host", "0.0.0.0"),
    ("--port", "8080", "port", 8080),
    ("--public-url", "https://m.example/llm/", "public_url", "https://m.example/llm"),
    ("--ssl-certfile", __file__, "ssl_certfile", Path(__file__)),
    ("--drain-timeout", "2.5", "drain_timeout", 2.5),
    ("--broker-url", "amqp://a,amqp://b", "broker_url", "amqp://a,amqp://b"),
    ("--broker-ca", __file__, "broker_ca", Path(__file__)),
    ("--broker-cert", __file__, "broker_cert", Path(__file__)),
    ("--broker-key", __file__, "broker_key", Path(__file__)),
    ("--prefix", "lab", "prefix", "lab"),
    ("--dispatch-method", "shortest_queue", "dispatch_method", DispatchMethod.SHORTEST_QUEUE),
    ("--heartbeat-expiration", "9", "heartbeat_expiration", 9.0),
    ("--check-interval", "3", "check_interval", 3.0),
    ("--request-timeout", "60", "request_timeout", 60.0),
    ("--first-token-timeout", "9", "first_token_timeout", ModelSeconds(9.0)),
    ("--stall-timeout", "2, big=60,a=b=5", "stall_timeout", ModelSeconds(2.0, {"big": 60.0, "a=b": 5.0})),
    ("--worker-wait", "7", "worker_wait", 7.0),
    ("--grace", "3", "grace", 3.0),
    ("--queue-limit", "10", "queue_limit", 10),
    ("--queue-type", "quorum", "queue_type", QueueType.QUORUM),
    ("--max-body-bytes", "1000", "max_body_bytes", 1000),
    ("--max-inflight-bytes", "5000", "max_inflight_bytes", 5000),
    ("--response-ttl", "60", "response_ttl", 60.0),
    ("--response-bytes", "1000", "response_bytes", 1000),
    ("--response-store-bytes", "5000", "response_store_bytes", 5000),
    ("--http-worker-slots", "2", "http_worker_slots", 2),
    ("--allow-image-url", "Images.example.com, *.cdn.net", "allow_image_url", ("images.example.com", "*.cdn.net")),
    ("--log-level", "DEBUG", "log_level", "debug"),
    ("--log-format", "JSON", "log_format", "json"),
]


@pytest.mark.parametrize(("option", "text", "name", "value"), OPTIONS)
def test_each_option_is_also_a_variable(option: str, text: str, name: str, value: Any) -> None:
    assert getattr(parse([option, text], {}), name) == value
    variable = ENVIRONMENT_PREFIX + option.removeprefix("--").replace("-", "_").upper()
    assert getattr(parse([], {variable: text}), name) == value


def test_parents_are_reached_by_an_address_that_is_not_the_own_one() -> None:
    ours = ["--public-url", "https://us.example"]
    given = ["--parent", "https://a.example/,http://b:21001", "--parent", "http://c:21001"]
    settings = parse([*ours, *given], {})
    assert settings.parent == ("https://a.example", "http://b:21001", "http://c:21001")
    config = _service_config(settings, RunningBroker("amqp://b", BrokerChoice.GIVEN))
    assert (config.parents, config.public_url) == (settings.parent, "https://us.example")
    assert parse(ours, {"BROKER_CONTROLLER_PARENT": "http://b:21001"}).parent == ("http://b:21001",)
    with pytest.raises(SettingError, match="without --public-url"):
        parse(given, {})
    with pytest.raises(SettingError, match="own --public-url"):
        parse([*ours, "--parent", "https://us.example/"], {})
    with pytest.raises(SettingError, match="no address"):
        parse([*ours, "--parent", "b:21001"], {})


def test_an_option_wins_over_its_variable() -> None:
    assert parse(["--port", "1"], {"BROKER_CONTROLLER_PORT": "2"}).port == 1


def test_the_brokers_address_may_come_from_amqp_url() -> None:
    environment = {"AMQP_URL": "amqp://a"}
    assert parse([], environment).broker_url == "amqp://a"
    assert parse([], environment | {"BROKER_CONTROLLER_BROKER_URL": "amqp://b"}).broker_url == "amqp://b"


def test_an_empty_address_of_the_broker_is_one_not_given() -> None:
    assert parse(["--broker-url", ""], {}).broker_url is None
    assert parse(["--broker-url", ""], {"AMQP_URL": "amqp://a"}).broker_url == "amqp://a"
    assert parse(["--broker-url", ""], {"BROKER_CONTROLLER_BROKER_URL": "amqp://b"}).broker_url == "amqp://b"


def test_the_queues_bounds_and_the_slots_of_http_workers_reach_the_service() -> None:
    settings = parse(["--queue-limit", "7", "--queue-type", "quorum", "--http-worker-slots", "2"], {})
    config = _service_config(settings, RunningBroker("amqp://b", BrokerChoice.GIVEN))
    assert config.bounds == QueueBounds(max_length=7, type=QueueType.QUORUM)
    assert config.http_worker_slots == 2
    bridge = ControllerService(config).bridges._config
    assert (bridge.bounds, bridge.slots) == (config.bounds, 2)


def test_the_times_that_requests_wait_reach_the_gateway() -> None:
    broker = RunningBroker("amqp://a", BrokerChoice.GIVEN)
    limits = _service_config(parse(["--worker-wait", "7", "--grace", "3"], {}), broker).limits
    assert (limits.worker_wait, limits.grace) == (7.0, 3.0)


def test_what_is_kept_of_responses_reaches_the_service() -> None:
    command = ["--response-ttl", "7", "--response-bytes", "8", "--response-store-bytes", "9", "--request-timeout", "5"]
    config = _service_config(parse(command, {}), RunningBroker("amqp://b", BrokerChoice.GIVEN))
    assert config.keep == KeepConfig(ttl=7.0, max_bytes=8, store_bytes=9, within=5.0)


def test_a_model_has_its_own_times_where_they_are_given() -> None:
    broker = RunningBroker("amqp://a", BrokerChoice.GIVEN)
    command = ["--first-token-timeout", "big=300", "--stall-timeout", "2,big=60", "--stall-timeout", "3,slow=40"]
    limits = _service_config(parse(command, {}), broker).limits
    times = {
        model: (limits.for_model(model).first_token, limits.for_model(model).between_tokens)
        for model in ("big", "slow", "any")
    }
    assert times == {"big": (300.0, 60.0), "slow": (60.0, 40.0), "any": (60.0, 3.0)}


def test_networks_are_separated_by_commas_or_given_again() -> None:
    expected = ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]
    several = parse(["--allow-http-workers", "10.0.0.0/8,192.0.2.1", "--allow-http-workers", "fd00::/8"], {})
    assert list(map(str, several.allow_http_workers)) == expected
    variable = {"BROKER_CONTROLLER_ALLOW_HTTP_WORKERS": "10.0.0.0/8, 192.0.2.1, fd00::/8"}
    assert list(map(str, parse([], variable).allow_http_workers)) == expected
    assert list(map(str, parse(["--allow-http-workers", "fd00::/8"], variable).allow_http_workers)) == expected[2:]


def test_hosts_of_images_are_separated_by_commas_or_given_again() -> None:
    several = parse(["--allow-image-url", "a.org,*.b.org", "--allow-image-url", "c.org"], {})
    assert several.allow_image_url == ("a.org", "*.b.org", "c.org")


MISTAKES = [
    ("--port", "x"),
    ("--port", "65536"),
    ("--public-url", "models.example"),
    ("--public-url", "ftp://models.example"),
    ("--ssl-certfile", "/no/such/file"),
    ("--drain-timeout", "-1"),
    ("--prefix", "a b"),
    ("--dispatch-method", "fastest"),
    ("--heartbeat-expiration", "nan"),
    ("--request-timeout", "inf"),
    ("--first-token-timeout", "m=0"),
    ("--stall-timeout", "2,=5"),
    ("--stall-timeout", "2,"),
    ("--stall-timeout", "soon"),
    ("--request-timeout", "1e12"),
    ("--queue-limit", "1.5"),
    ("--queue-type", "stream"),
    ("--queue-limit", "0"),
    ("--max-inflight-bytes", "lots"),
    ("--allow-http-workers", "10.0.0.0/99"),
    ("--allow-image-url", "https://a.org"),
    ("--log-level", "loud"),
    ("--log-format", "xml"),
]


@pytest.mark.parametrize(("option", "text"), MISTAKES)
def test_a_mistake_is_told_in_one_sentence_with_exit_code_2(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([option, text]) == 2
    said = capsys.readouterr().err
    assert said.startswith("broker-controller: ")
    assert option in said
    assert said.count("\n") == 1

    variable = ENVIRONMENT_PREFIX + option.removeprefix("--").replace("-", "_").upper()
    with pytest.raises(SettingError, match=variable):
        parse([], {variable: text})


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["stray"], ["--port"], ["--ssl-keyfile", __file__]])
def test_so_is_any_other_mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_help_is_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"], {})
    assert ended.value.code == 0
    said = capsys.readouterr().out
    headings = ["Serving:", "Broker:", "Dispatch:", "Limits:", "Kept responses:", "Old HTTP workers:", "Logging:"]
    positions = [said.index(heading) for heading in headings]
    assert positions == sorted(positions)
    for option, *_ in OPTIONS:
        assert option in said
    assert max(map(len, said.splitlines())) <= 120
