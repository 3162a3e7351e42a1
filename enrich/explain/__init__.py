"""Explains why a connection is allowed or denied, policy by policy and rule by rule.

The decision itself is always :func:`enrich.policy.decide.decide`'s. The modules here only put words to it, with the
same predicates, and a property test compares the two on random clusters.
"""
