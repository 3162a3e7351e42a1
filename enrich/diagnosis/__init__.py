"""Finds out why Kafka refuses a service, in words for the person who can mend it.

Kafka's clients report most refusals as "brokers are down". So while a service makes no progress, this package connects
once more, step by step, by its own few requests of Kafka's protocol: each step that fails has one cause. Both of the
services' client libraries get the same answers so.
"""
