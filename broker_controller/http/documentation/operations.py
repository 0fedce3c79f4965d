"""The endpoints for whoever runs the controller."""

from broker_controller.dispatch import DispatchMethod
from broker_controller.http.answer_types import (
    BrokerFacts,
    ControllerFacts,
    Health,
    HttpWorkerFacts,
    KeptCounts,
    ModelFacts,
    Readiness,
    Status,
    StreamCounts,
)
from broker_controller.http.documentation.parts import MODEL, REQUEST_ID, TEXT, answer
from broker_controller.process_facts import ProcessFacts
from broker_controller.waiting_line import WaitingRequest
from broker_controller.worker_record import RecordState, WorkerView
from broker_wire.messages import ModelCard

HEALTHZ = {"responses": {"200": answer("It lives", Health("ok"))}}
READYZ = {
    "responses": {
        "200": answer("It takes requests", Readiness(True, [])),
        "503": answer("It takes none", Readiness(False, ["nothing listens at localhost:5672"])),
    }
}
EXAMPLE_WORKER = WorkerView(
    name="gpu-1",
    instance="8e1f",
    state=RecordState.READY,
    models=(ModelCard(MODEL, context_length=2048),),
    slots=4,
    speed=1.0,
    running=1,
    waiting=0,
    free=3,
    load=1,
    last_seen_age=2.1,
    lost_for=None,
    started_at=1700000000.0,
    host="gpu-1.example",
    pid=4711,
    shim="0.1.0",
    protocol="1.0",
    bridged=False,
    address=None,
    check_heart_beat=True,
    requests_done=17,
    tokens_done=4096,
)
_METRICS_TEXT = {"schema": TEXT, "example": "# TYPE broker_controller_ready gauge\nbroker_controller_ready 1.0\n"}
METRICS = {
    "responses": {
        "200": {
            "description": "In the format that `Accept` asks for",
            "headers": REQUEST_ID,
            "content": {"text/plain": _METRICS_TEXT, "application/openmetrics-text": _METRICS_TEXT},
        }
    }
}
STATUS = {
    "responses": {
        "200": answer(
            "What is going on",
            Status(
                ControllerFacts("5f0c", DispatchMethod.QUEUE, True, []),
                BrokerFacts(connected=True, blocked=False, problem=None, version="4.0.5"),
                [EXAMPLE_WORKER],
                [HttpWorkerFacts("http://10.0.0.7:21002", "bridging", ["llava"])],
                [ModelFacts(MODEL, workers=1, slots=4, free=3, queue_length=0, forecast_seconds=0.0)],
                StreamCounts(1, 1, 17, 0, 812, [WaitingRequest("4f1c", MODEL, 1, 1, 2.5)]),
                KeptCounts(3, 18_000, 1),
                {"fleet": 1},
                ProcessFacts(tasks=21, open_files=17, threads=2, resident_bytes=61440000),
            ),
        )
    }
}
TEST_CONNECTION = {"responses": {"200": answer("It answers", "success")}}
