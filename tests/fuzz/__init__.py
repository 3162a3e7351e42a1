"""Malformed records for everything that decodes a topic; see :mod:`tests.fuzz.__main__`."""
