"""Alerts: rules that count denied connections and losses per group and fire when a condition holds.

Start with :mod:`.loops`, which explains how records become alerts exactly once. Only :mod:`.count_loop`,
:mod:`.engine_loop`, :mod:`.outputs` and :mod:`.policy_watch` reach Kafka or the API server; every other module is a
function of values.
"""
