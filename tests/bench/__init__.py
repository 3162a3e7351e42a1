"""``make bench``: what the pipeline does on this machine, measured on the real parts.

Three parts, each of which can be run alone: nanoseconds a packet (:mod:`tests.bench.packets`), the ring buffer to
acknowledged Kafka batches (:mod:`tests.bench.ring`), and the raw topic to one record a verdict beside plain Faust
(:mod:`tests.bench.streams`). Every part counts what came out, and fails where that is not what went in. Times are
printed beside their aims, and never asserted.
"""
