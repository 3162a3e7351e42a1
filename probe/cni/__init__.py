"""The node's end of the CNI plugin ``weir-cni``: its installation, its socket, and what its requests do."""
