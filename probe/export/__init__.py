"""The way of verdicts from the ring buffer to Kafka: ring, batcher, spool, publisher."""
