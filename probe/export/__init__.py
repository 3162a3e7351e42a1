"""The export of verdicts from the kernel's ring buffer to Kafka: ring, drain, batcher, spool, publisher."""
