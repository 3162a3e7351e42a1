"""What both services share: the cluster's objects and their index, policy semantics, wire formats, and records.

Nothing here talks to Kafka or to the kernel.
"""
