"""Hubble's API over Kafka: the gRPC service `observer.Observer`, answered from the topics of flows."""
