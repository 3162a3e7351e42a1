"""Kafka, for everything here but Faust's own consumer; alone imports confluent_kafka.

Topics are made at the start, for a broker that makes one by itself makes one of a single partition. Output goes by one
idempotent producer that never gives up on its own. A sink and `weir observe` read with consumers of their own.
"""
