"""Names for requests and answers: told apart, not guarded. What guards something is drawn with `secrets`.

The kernel's randomness costs a system call each time, a thirtieth of a short request.
"""

import random

_draw = random.Random().getrandbits


def hex_id(digits: int) -> str:
    """So many hexadecimal digits, drawn at random."""
    return f"{_draw(4 * digits):0{digits}x}"
