"""``make bench`` measures the pipeline on this machine, with the same code that runs in production.

It has four parts, which can be run separately: the time per packet in the kernel program (:mod:`tests.bench.packets`),
the ring buffer to acknowledged Kafka batches (:mod:`tests.bench.ring`), the raw topic to one record for each verdict,
beside plain Faust (:mod:`tests.bench.streams`), and the packet to Alertmanager (:mod:`tests.bench.alerts`). Each part
counts its input and its output and fails if they differ. Times are printed beside their aims and never asserted.
"""
