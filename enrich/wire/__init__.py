"""What travels over Kafka: batches of verdicts, address intervals, the topics."""
