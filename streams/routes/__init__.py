"""Routes: which records go where besides the topics that always have them. Pure but for :mod:`streams.routes.live`."""
