"""Garbage is counted and said once a second at most."""

import logging

import pytest

from broker_wire.garbage import GarbageBin


def test_every_message_is_counted_and_the_log_stays_quiet(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    bin_ = GarbageBin(clock=lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(1_000):
            bin_.drop("fleet", "not MessagePack")
        assert len(caplog.records) == 1
        bin_.drop("replies", "unknown stream")
        assert len(caplog.records) == 2
        now = 1.5
        bin_.drop("fleet", "not MessagePack")
    assert bin_.counts == {"fleet": 1_001, "replies": 1}
    assert "count=1000" in caplog.records[-1].getMessage()
