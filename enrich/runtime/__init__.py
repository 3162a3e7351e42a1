"""What every service needs to run: settings, logging, signals, the port for health and metrics."""
