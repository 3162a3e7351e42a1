"""Cluster policy to the desired content of the kernel's maps. Pure: no kernel, no netlink, no Kafka."""
