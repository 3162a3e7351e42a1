"""What the probe knows of its own node: links, addresses, which interface belongs to which pod."""
