"""What is known of the cluster: the wire records, the objects, policy semantics, the index, enrichment.

No Kafka and no kernel in here: both services stand on it.
"""
