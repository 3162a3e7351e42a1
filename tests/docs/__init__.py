"""Tests that the documents say what the code does, and the generators of the pages that are made from it."""
