"""From the cluster's policies to the desired content of the kernel's maps. Imports no kernel, no netlink and no Kafka.

Start reading in :mod:`probe.policy.compiler`, whose docstring follows one policy through all modules.
"""
