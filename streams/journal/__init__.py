"""The journal: what the role ``journal`` writes to the topic of that name, and how commands read it.

:mod:`enrich.wire.journal` says what an entry means.
"""
