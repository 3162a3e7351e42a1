"""Sinks: destinations of records other than Kafka. Each is read and written by a loop with a consumer group of its own.

A sink has two methods (:mod:`.sink`); :mod:`.pump` is the loop, and :mod:`.running_sinks` starts and stops sinks as the
configuration changes. Sinks do not know routes or alerts.
"""
