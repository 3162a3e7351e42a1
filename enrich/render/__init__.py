"""Verdicts to records: one JSON object for each verdict of a batch."""
