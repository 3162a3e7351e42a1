"""Calls of librdkafka that may never return.

Theory of operation. Two calls wait for brokers without a limit, and no other thread can end them:

- ``Producer.send_offsets_to_transaction`` waits for its answer, whatever timeout it is given. librdkafka sends the
  request once the group's coordinator is connected, and looks again only when the connection to some broker comes or
  goes. Say a broker comes back at another address: if all connections are there by then, nothing changes any more, and
  the call waits for ever (librdkafka issue 5511).
- ``Consumer.close`` takes no timeout. It waits until its group has let the member go, however long a rebalance that is
  under way, or a coordinator that is away, takes.

So the call runs on a thread of its own, and its caller waits as long as the call should take. Then the caller gives the
client up. The thread stays behind with it until the call returns, if it ever does. The broker aborts a transaction
after ``transaction.timeout.ms``, and refuses offsets that come after that. A consumer that is left behind may keep its
partitions: then its group makes no progress, and :mod:`streams.kafka.lag` lets the process be started anew.

If several calls hang, the process ends, so that its supervisor starts it anew. The enricher does not end: flows do not
wait for its counts of pairs, which stay in memory until a later write.

Other calls have a limit (as of librdkafka 2.16): those that take a timeout keep to it; ``commit`` waits for the
session's timeout until the coordinator is found, and then for that of a request; and ``subscribe``, ``unsubscribe``,
``assign``, ``pause``, ``begin_transaction`` and ``consumer_group_metadata`` ask another thread of the client, which
waits for no broker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from enrich.runtime.process import Exit, StopServiceError
from enrich.runtime.work_thread import start_work
from streams.kafka.connection import CALL_TIMEOUT_S

log = structlog.get_logger("kubeweir.streams")

_GRACE_S: Final = 5.0
"""How much longer than its timeout a call may take, for instance because the machine is busy."""
_MAX_LEFT: Final = 8
"""How many calls of a process may hang at the same time. Each keeps a client with its threads."""

_CLOSE_S: Final = CALL_TIMEOUT_S + _GRACE_S

_left: list[Future[Any]] = []
_lock = threading.Lock()


def send_offsets(
    producer: Producer, offsets: list[TopicPartition], group: object, timeout_s: float = CALL_TIMEOUT_S
) -> None:
    """Add offsets of a group to the producer's transaction.

    Raises KafkaException: ``_TIMED_OUT``, which is not retriable, if the call hangs. Then the producer is of no use any
    more. Raises StopServiceError if too many calls of this process hang."""
    bounded(lambda: producer.send_offsets_to_transaction(offsets, group, timeout_s), timeout_s + _GRACE_S)


def close_consumer(consumer: Consumer) -> bool:
    """Leave the group, if the consumer is in one, and disconnect. If that hangs, leave it behind and return False.

    The consumer may still call the callbacks of one that is left behind, at any time: they must do nothing. Raises
    KafkaException as ``close`` does, and StopServiceError if too many calls of this process hang."""
    work = start_work(consumer.close, "kafka-close")
    try:
        work.result(_CLOSE_S)
    except TimeoutError:
        log.error("a consumer could not be closed, and is left behind", seconds=_CLOSE_S)
        _leave(work)
        return False
    return True


def bounded(call: Callable[[], object], limit_s: float) -> None:
    """Run a call that may never return. Raises what it raises, and otherwise as :func:`send_offsets`."""
    work = start_work(call, "kafka-call")
    try:
        work.result(limit_s)
    except TimeoutError:
        _leave(work)
        text = f"a call to Kafka has not returned for {limit_s:.0f} s, although its timeout is shorter"
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, text)) from None


def _leave(work: Future[Any]) -> None:
    with _lock:
        _left[:] = [one for one in (*_left, work) if not one.done()]
        hanging = len(_left)
    if hanging > _MAX_LEFT:
        raise StopServiceError(f"{hanging} calls to Kafka hang, and new clients do not help", Exit.UNEXPECTED)
