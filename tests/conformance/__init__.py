"""Runs policy cases (see README.md beside this file) against the loaded program; ``python -m tests.conformance``.

``case`` reads and checks the files, ``state`` is the cluster they describe, ``fleet`` makes the namespaces and the
product in them, ``frames`` asks the program by BPF_PROG_RUN, ``wire`` sends real packets, ``runner`` compares.
"""
