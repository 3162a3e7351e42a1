"""Backtests against the kernel: policies are predicted, then put in force, and the same packets are sent again."""
