"""What crosses the broker: message types, codec, topology, the AMQP adapter.

Both sides import it. It knows neither HTTP nor engines.
"""
