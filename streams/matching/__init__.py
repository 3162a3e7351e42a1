"""Conditions on a flow record, which routes and alert rules share. This package depends on neither."""
