"""Tests of `enrich.checking`."""
