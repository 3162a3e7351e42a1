"""The index of the cluster: objects by name, and which pod had which address when."""
