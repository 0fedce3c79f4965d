"""Engines that come with the shim, one a file. Each is an ordinary user of the public API."""
