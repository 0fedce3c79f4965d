"""Where our controller answers otherwise than LLaVA's own, on purpose, by step."""

from tests.upstream.comparing import ERROR, FINISH, HIGH_TRAFFIC, OF_BOTH, Difference

_FINISH = Difference(FINISH, (200, {}), (200, {"finish_reason": "stop"}))

DIFFERENCES = OF_BOTH | {
    "stream": _FINISH,
    "stream with images": _FINISH,
    "stream: unknown model": Difference(
        ERROR,
        (200, {"text": HIGH_TRAFFIC, "error_code": 3}),
        (200, {"text": "for model 'another'", "error_code": 2}),
    ),
    "stream: error": Difference(
        ERROR,
        (200, {"text": HIGH_TRAFFIC, "error_code": 1}),
        (200, {"text": "of which it gives no reason", "error_code": 1}),
    ),
}
