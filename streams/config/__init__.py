"""Files that people write: YAML with checked fields, reloaded while the process runs."""
