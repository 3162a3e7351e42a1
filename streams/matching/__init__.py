"""Conditions over a record, shared by routes and alerts."""
