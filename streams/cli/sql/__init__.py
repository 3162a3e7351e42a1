"""Tables of the past for `weir sql`: Arrow made from what Kafka keeps, and DuckDB, locked down, that queries it.

Everything here but :mod:`streams.cli.sql.columns` imports pyarrow or DuckDB, which are an extra (``kubeweir[sql]``).
"""
