"""What `weir doctor` asks, each thing in a module of its own."""
