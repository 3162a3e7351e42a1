"""Routes: which records go where besides the topics that always have them. Only `topics`, `live` and `outputs` touch
the outside world."""
