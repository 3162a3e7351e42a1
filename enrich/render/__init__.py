"""Renders verdicts as records: one JSON object for each verdict of a batch."""
