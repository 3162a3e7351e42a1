"""What answers about the past cost: ``make bench-history``."""
