"""When what Kafka refuses is sent again."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from probe.export.refusal import Refusal, in_words, unseen

SASL = {"security.protocol": "sasl_ssl", "sasl.username": "probe"}


def test_attempts_come_at_growing_intervals_until_one_succeeds() -> None:
    now = [100.0]
    refusal = Refusal(lambda: now[0])
    waits = []
    for _ in range(7):
        for _ in range(3):  # records of one attempt
            refusal.note("no right")
        waits.append(refusal.wait_s)
        now[0] += refusal.wait_s
        refusal.retry()
    assert waits == [0.5, 1, 2, 4, 8, 8, 8]
    assert refusal.total == 21
    refusal.clear()
    assert (refusal.problem, refusal.wait_s) == ("", 0)
    refusal.note("no right")
    assert refusal.wait_s == 0.5


def test_only_a_refusal_for_another_reason_is_reported_again() -> None:
    refusal = Refusal()
    assert [refusal.note(why) for why in ("a", "a", "b", "b")] == [True, False, True, False]


@pytest.mark.parametrize("text", [in_words, unseen])
def test_a_missing_right_comes_with_the_command_that_gives_it(text: object) -> None:
    assert callable(text)
    said = text(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "t.raw", SASL)
    assert "User:probe has no right WRITE on the topic t.raw: kafka-acls --add" in said
    assert "has no right" not in text(KafkaError(KafkaError.POLICY_VIOLATION), "t.raw", SASL)
