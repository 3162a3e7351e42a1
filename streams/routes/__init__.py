"""Routes: which records go where besides the topics that always have them.

Only `topics`, `routes_file` and `outputs` touch the outside world.
"""
