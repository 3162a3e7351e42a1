"""Routes: which further outputs receive which records, besides the topics `flows` and `flows.denied`.

Only `topics`, `routes_file` and `outputs` touch the outside world.
"""
