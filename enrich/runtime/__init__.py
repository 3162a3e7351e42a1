"""What both services stand on: settings, logging, the health and metrics port, signals."""
