"""The controller: HTTP in front, RabbitMQ behind, and the life of every request in between."""
