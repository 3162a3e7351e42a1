"""Everything that talks to Kafka, except Faust's own consumer. Only this package imports confluent_kafka.

- The service creates its topics at the start, because a broker that creates a topic by itself gives it one partition.
- The enricher writes with an idempotent producer that retries until the broker answers.
- Sinks, alerts and `weir observe` read with consumers of their own, so that a slow reader delays no other reader.
"""
