"""What can be set of kept responses. Plain data, read by `settings` and `service`."""

from msgspec import Struct


class KeepConfig(Struct, frozen=True):
    """Seconds and bytes; see `Settings`."""

    ttl: float = 600.0
    max_bytes: int = 4 * 1024 * 1024
    store_bytes: int = 256 * 1024 * 1024
    within: float = 600.0
