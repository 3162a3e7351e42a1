"""Attacks on the real programs at real interfaces of this machine's kernel: ``python -m tests.attack``."""
