"""The Faust application, the sinks, and the `weir` command for people."""
