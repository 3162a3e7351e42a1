"""What one ``weir-streams`` process runs: enrich, sinks, alerts, or a supervisor of all three."""
