"""What verdicts of the past meant: the state of the cluster as of a time, and questions about distinct pairs.

Everything here is pure. :mod:`enrich.wire.journal` is the form in which versions of objects are kept,
:mod:`enrich.wire.pair` the form of hourly counts. Who can write to a topic must not open a policy, so no code that
enforces policy may import this package.
"""
