"""Tests of the tables and the database of `weir sql`."""
