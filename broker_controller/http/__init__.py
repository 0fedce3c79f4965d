"""The HTTP side of a controller: one module a protocol. No decision about a request is taken here."""
