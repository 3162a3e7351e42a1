"""``python -m tests.conformance`` runs policy cases (see README.md in this folder) against the loaded kernel program.

``case`` reads and checks the files; ``state`` is the cluster that they describe; ``fleet`` makes the network namespaces
and runs the probe in them; ``frames`` runs the program on frames by BPF_PROG_RUN; ``wire`` sends real packets;
``runner`` compares the outcomes with those that the case expects.
"""
