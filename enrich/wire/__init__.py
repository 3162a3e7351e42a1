"""The formats that travel over Kafka: batches of verdicts, address intervals, flow records; and the topics."""
