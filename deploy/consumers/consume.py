#!/usr/bin/env python3
"""Prints each denied connection once: id, verdict, who, to where, which policies isolate. Needs confluent-kafka.

usage: consume.py BROKERS TOPIC GROUP       e.g. 127.0.0.1:9092 kubeweir.flows.denied my-consumer
"""

import json
import sys

from confluent_kafka import Consumer

brokers, topic, group = sys.argv[1:]
consumer = Consumer({
    "bootstrap.servers": brokers,
    "group.id": group,
    "auto.offset.reset": "earliest",
    # An offset is stored once its record is printed, and only then committed: a crash repeats, and loses nothing.
    "enable.auto.offset.store": False,
    "session.timeout.ms": 6000,
})  # fmt: skip
consumer.subscribe([topic])

REMEMBERED = 10_000
seen = {}
"""The last numbers per ring and pod, and the highest that was forgotten. It is lost with the process; a consumer that
writes to a database uses the id as the key instead."""


def is_repeat(subject, number):
    """A pod's numbers rise, but one that a broker refused at first comes after later ones: so remember the numbers."""
    numbers, forgotten = seen.setdefault(subject, (set(), -1))
    if number <= forgotten or number in numbers:
        return True
    numbers.add(number)
    if len(numbers) > REMEMBERED:
        lowest = sorted(numbers)[: REMEMBERED // 2]
        numbers.difference_update(lowest)
        seen[subject] = numbers, lowest[-1]
    return False


def end(side):
    """A pod, a node, or an address."""
    pod = side.get("pod_name")
    return f"{side['namespace']}/{pod}" if pod else side.get("node_name") or side.get("instance") or "?"


while True:
    message = consumer.poll(1)
    if message is None:
        continue
    if message.error():
        print(message.error(), file=sys.stderr)
        continue
    flow = json.loads(message.value())
    ring, _, number = flow["id"].rpartition("-")
    local = flow["dest" if flow["connection"]["direction"] == "ingress" else "src"]
    subject = ring, local.get("pod_uid") or message.key()
    if not is_repeat(subject, int(number)):
        port = flow["connection"].get("dest_port", "")
        policies = ",".join(policy["name"] for policy in flow["isolated_by"] or flow["policies"])
        print(flow["id"], flow["disposition"], end(flow["src"]), f"{end(flow['dest'])}:{port}", policies,
              sep="\t", flush=True)  # fmt: skip
    consumer.store_offsets(message)
