"""Conditions on a flow record, which routes and alert rules share. It knows neither."""
