"""Replies get lost, come twice, in another order, or as garbage: no hole and no repetition in any text."""

import asyncio
import os
import random

import pytest

from broker_controller.private_node import PrivateNode
from broker_wire.topology import Topology
from tests.faults.conftest import Record
from tests.faults.history import all_complete
from tests.faults.scene import MID_STREAM, QUEUED, Scene
from tests.faults.settings import cases
from tests.faults.tampering import Harm, TamperingProxy

ONE_IN = 8
KINDS = {"all of it": list(Harm), **{harm.value: [harm] for harm in Harm}}


@pytest.mark.parametrize("kind", cases(KINDS, short=["all of it"]))
async def test_replies_are(scene: Scene, record: Record, unharmed_node: PrivateNode, prefix: str, kind: str) -> None:
    seed = int(os.environ.get("TAMPER_SEED") or random.randrange(10**6))
    print(f"TAMPER_SEED={seed}")
    exchange = Topology(prefix).replies
    async with TamperingProxy(unharmed_node.url, exchange, KINDS[kind], seed=seed, one_in=ONE_IN) as proxy:
        await asyncio.to_thread(scene.start, "w1", "w2", controller=("--broker-url", proxy.url))
        scene.fault()
        for _ in range(8):
            scene.send(MID_STREAM, tokens=60)
        for _ in range(4):
            scene.send(QUEUED, tokens=30)
        exchanges = await scene.finish()
        record(f"replies {kind}", exchanges, scene.fault_at)
        print({harm.value: count for harm, count in proxy.done.items()})
        assert all(proxy.done.values())
        status = await scene.status()
    assert all_complete(exchanges)
    assert status["garbage"].get("replies", 0) == proxy.done.get(Harm.GARBLE, 0)
