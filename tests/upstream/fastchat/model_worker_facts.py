"""What the tests know of `model_worker`, which they cannot import: it needs FastChat."""

CONTEXT_LENGTH = 2048
