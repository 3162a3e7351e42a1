"""Parses the API's JSON into the values of :mod:`enrich.model`."""
