"""Configuration files: YAML that is checked field by field, and reloaded while the process runs."""
