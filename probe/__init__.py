"""The node agent: policy into kernel maps, verdicts out of the ring buffer into Kafka."""
