"""Where our controller answers otherwise than LLaVA's own, on purpose, by step."""

from tests.upstream.comparing import ALLOWED, ERROR, FINISH, HIGH_TRAFFIC, WHO_TELLS, Difference, malformed

_FINISH = Difference(FINISH, (200, {}), (200, {"finish_reason": "stop"}))

DIFFERENCES = {
    "status": Difference(WHO_TELLS, (200, {}), (200, {"controller": ""})),
    "register: nothing": malformed(detail="has not the right form"),
    "register: no JSON": malformed(detail="is not JSON"),
    "heartbeat: nothing": malformed(detail="has not the right form"),
    "address: nothing": malformed(detail="has not the right form"),
    "register: an address elsewhere": Difference(ALLOWED, (200, {}), (403, {"detail": "may not register"})),
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
