"""Where our controller answers otherwise than FastChat's own, on purpose, by step."""

from tests.upstream.comparing import ERROR, HIGH_TRAFFIC, OF_BOTH, THE_MODEL, Difference, malformed

DIFFERENCES = OF_BOTH | {
    "stream: unknown model": Difference(
        ERROR,
        (200, {"text": HIGH_TRAFFIC, "error_code": 50006}),
        (200, {"text": "for model 'another'", "error_code": 2}),
    ),
    "stream: error": Difference(
        ERROR,
        (200, {"text": HIGH_TRAFFIC, "error_code": 50001}),
        (200, {"text": "the tensor is too small", "error_code": 1}),
    ),
    "generate: error": Difference(
        ERROR,
        (200, {"text": HIGH_TRAFFIC, "error_code": 50001}),
        (200, {"text": "the tensor is too small", "error_code": 1}),
    ),
    "count: no prompt": malformed(text="missing required field `prompt`", error_code=1),
    "count: no JSON": malformed(text="is not JSON", error_code=1),
    "conversation: no model": Difference(
        THE_MODEL, (200, {}), (400, {"text": "missing required field `model`", "error_code": 1})
    ),
    "details: another model": Difference(
        THE_MODEL, (200, {"context_length": 2048}), (200, {"text": "no worker serves it", "error_code": 2})
    ),
}
