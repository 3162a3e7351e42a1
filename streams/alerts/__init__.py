"""Alerts: rules over denied connections and losses, counted by group in windows; values but for :mod:`.loops`."""
