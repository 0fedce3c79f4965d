"""What is the same for all endpoints: ids, the access log, unknown paths, docs; and the endpoints for operators."""

import json
import logging
import re
from typing import Any

import pytest

from tests.unit.http_double import World


async def test_readiness_has_reasons() -> None:
    world = World()
    assert (await world.get("/readyz").whole()).json() == {"ready": True, "reasons": []}

    world.links.problem = "nothing listens at localhost:5672"
    world.fleet.ready = False
    world.gateway.door.ready = False
    answer = await world.get("/readyz").whole()
    assert answer.status == 503
    assert answer.json() == {
        "ready": False,
        "reasons": ["nothing listens at localhost:5672", "the workers have not been asked who they are yet"],
    }
    assert (await world.get("/healthz").whole()).status == 200

    world.links.problem = ""
    world.fleet.ready = True
    assert (await world.get("/readyz").whole()).json()["reasons"] == ["this controller is about to leave"]


async def test_the_status_shows_workers_models_broker_and_garbage() -> None:
    world = World()
    world.announce("w1", "tiny", slots=4)
    world.gateway.forecasts["tiny"] = 3.5
    world.queues.lengths = {"tiny": 7, "orphan": 1}
    world.bridges.registered.append(("http://old",))
    status = (await world.get("/status").whole()).json()
    assert status["controller"] == {"id": "c0ffee", "dispatch_method": "queue", "ready": True, "reasons": []}
    assert status["broker"] == {"connected": True, "blocked": False, "problem": None, "version": "4.0.5"}
    assert [(worker["name"], worker["state"], worker["slots"]) for worker in status["workers"]] == [("w1", "ready", 4)]
    assert status["models"] == [
        {"name": "orphan", "workers": 0, "slots": 0, "free": 0, "queue_length": 1, "forecast_seconds": None},
        {"name": "tiny", "workers": 1, "slots": 4, "free": 0, "queue_length": 7, "forecast_seconds": 3.5},
    ]
    assert status["http_workers"] == [{"worker": "http://old", "state": "bridging"}]
    assert status["streams"] == {"running": 0, "waiting": 0}
    assert status["process"].keys() == {"tasks", "open_files", "threads", "resident_bytes"}
    assert status["process"]["tasks"] >= 1
    assert status["garbage"] == {"fleet": 2}


async def test_fastchats_test_connection_says_success() -> None:
    answer = await World().get("/test_connection").whole()
    assert (answer.status, answer.body) == (200, b'"success"')


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/v1/models", "/list_models"])
async def test_every_answer_has_a_request_id(path: str) -> None:
    world = World()
    ids = {(await world.get(path).whole()).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("given", ["a b", "é", "x" * 129, "", "a\tb", "\x7f"])
async def test_a_request_id_that_no_log_line_can_hold_is_replaced(given: str) -> None:
    answer = await World().post("/list_models", headers={"X-Request-Id": given}).whole()
    assert answer.headers["x-request-id"] not in ("", given)


async def test_a_good_request_id_comes_back() -> None:
    given = "x" * 126 + "=/"
    assert (await World().post("/list_models", headers={"X-Request-Id": given}).whole()).headers[
        "x-request-id"
    ] == given


async def test_the_access_log_has_a_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broker_controller.access")
    world = World()
    await world.post("/list_models", headers={"X-Request-Id": "abc"}).whole()
    await world.get("/healthz").whole()
    [line] = [record.getMessage() for record in caplog.records if record.name == "broker_controller.access"]
    assert line.startswith("answered request=abc method=POST path=/list_models status=200 ms=")
    assert line.endswith(" client=192.0.2.1")


async def test_a_client_that_left_before_the_status_is_logged_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broker_controller.access")
    world = World()
    answer = world.post("/worker_generate", {"model": "m", "prompt": "p"})
    await world.gateway.submitted()
    await answer.leave()
    assert "status=499" in caplog.text


@pytest.mark.parametrize(
    ("path", "key"), [("/nowhere", "detail"), ("/v1/nowhere", "error"), ("/list_models/", "detail")]
)
async def test_an_unknown_path_is_a_404_in_its_protocols_form(path: str, key: str) -> None:
    answer = await World().post(path, {}).whole()
    assert answer.status == 404
    said: Any = answer.json()[key]
    assert path in (said if isinstance(said, str) else said["message"])


async def test_a_wrong_method_is_a_405_that_says_which_is_right() -> None:
    answer = await World().get("/v1/chat/completions").whole()
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert (await World().post("/healthz").whole()).status == 405


@pytest.mark.parametrize(("path", "key"), [("/v1/chat/completions", "error"), ("/worker_get_status", "detail")])
async def test_what_nobody_foresaw_is_a_500_with_the_id_and_a_traceback_in_the_log(
    path: str, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()

    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(world.gateway, "submit", broken)
    monkeypatch.setattr(world.controller, "worker_api_get_status", broken)
    body = {"model": "m", "messages": [{"role": "user"}]}
    answer = await world.post(path, body, {"X-Request-Id": "abc"}).whole()
    assert answer.status == 500
    assert "abc" in str(answer.json()[key])
    assert "secret" not in str(answer.json())
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(("problem", "ready"), [("", 1.0), ("the broker holds publishers back", 0.0)])
async def test_the_metrics_and_the_probe_agree_on_whether_it_is_ready(problem: str, ready: float) -> None:
    world = World()
    world.links.problem = problem
    text = (await world.get("/metrics").whole()).body.decode()
    assert f"\nbroker_controller_ready {ready}\n" in text
    assert ((await world.get("/readyz").whole()).status == 200) is bool(ready)


async def test_the_docs_show_every_endpoint_with_examples() -> None:
    document = (await World().get("/openapi.json").whole()).json()
    posts = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/responses/{response_id}/cancel",
        "/worker_generate_stream",
        "/worker_generate",
        "/worker_get_embeddings",
        "/count_token",
        "/model_details",
        "/worker_get_conv_template",
        "/worker_get_status",
        "/register_worker",
        "/refresh_all_workers",
        "/list_models",
        "/list_multimodal_models",
        "/list_language_models",
        "/get_worker_address",
        "/receive_heart_beat",
        "/worker/{name}/worker_generate_stream",
        "/worker/{name}/worker_generate",
        "/worker/{name}/worker_get_embeddings",
        "/worker/{name}/count_token",
        "/worker/{name}/model_details",
        "/worker/{name}/worker_get_conv_template",
        "/worker/{name}/worker_get_status",
    ]
    gets = ["/v1/models", "/v1/models/{model}", "/healthz", "/readyz", "/status", "/metrics", "/test_connection"]
    gets += ["/v1/responses/{response_id}", "/v1/responses/{response_id}/input_items"]
    assert sorted(document["paths"]) == sorted([*posts, *gets])
    operations = [document["paths"][path]["post"] for path in posts] + [document["paths"][path]["get"] for path in gets]
    operations.append(document["paths"]["/v1/responses/{response_id}"]["delete"])
    for operation in operations:
        assert operation["summary"]
        for content in operation["responses"]["200"]["content"].values():
            assert "example" in content or content["schema"] == {"type": "null"}
        for answer in operation["responses"].values():
            assert answer["headers"]["X-Request-Id"]["required"]
            assert all(content["schema"] for content in answer["content"].values())
        assert "422" not in operation["responses"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= document["components"]["schemas"].keys()
    chat = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert chat["schema"]["required"] == ["model", "messages"]
    assert chat["example"]["stream"] is True
    for status in ("429", "503", "504"):
        headers = document["paths"]["/v1/chat/completions"]["post"]["responses"][status]["headers"]
        assert headers["Retry-After"]["required"]
