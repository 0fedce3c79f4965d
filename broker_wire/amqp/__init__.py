"""The AMQP adapter: pika made awaitable and reconnecting. Nothing outside this package imports pika."""

from broker_wire.amqp.addresses import BrokerAddresses, Endpoint, TLSFiles, parse_broker_url
from broker_wire.amqp.channel import HIGH_WATER, Channel
from broker_wire.amqp.confirms import OnOutcome, Outcome
from broker_wire.amqp.connection import Connection, Session
from broker_wire.amqp.declare import declare_queues, declare_topology, queue_ready_counts
from broker_wire.amqp.delivery import Delivery, QueueState

__all__ = [
    "HIGH_WATER",
    "BrokerAddresses",
    "Channel",
    "Connection",
    "Delivery",
    "Endpoint",
    "OnOutcome",
    "Outcome",
    "QueueState",
    "Session",
    "TLSFiles",
    "declare_queues",
    "declare_topology",
    "parse_broker_url",
    "queue_ready_counts",
]
