"""What the probe knows of its own node: links and addresses, which interface belongs to which pod, and since when."""
