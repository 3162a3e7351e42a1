"""A Kubernetes of several nodes on one machine; ``deploy/local/cluster`` is the program."""
