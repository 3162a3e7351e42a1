"""The words about transactions that do not end."""

from __future__ import annotations

import pytest

from enrich.diagnosis.transactions import OpenTransaction, partition_of_group


@pytest.mark.parametrize(
    ("group", "hashed"),
    [("", 0), ("a", 97), ("kubeweir", 1_163_438_372), ("polygenelubricants", 0), ("\U0001f600", 1_772_899)],
)
def test_a_group_is_in_the_partition_of_javas_hash_of_its_name(group: str, hashed: int) -> None:
    """The hash of the fourth is the least number, of which Kafka takes 0."""
    assert partition_of_group(group, 1 << 40) == hashed


def test_a_sentence_has_the_command_that_ends_a_transaction() -> None:
    found = OpenTransaction("t", 3, 812, since=0.0, is_exact=True)
    assert found.in_words("a:9092,b:9092", now=60.4) == (
        "what is behind offset 812 of t [3] cannot be read since 1970-01-01T00:00:00Z (60 s), because a transaction "
        "has not ended: whoever reads committed records waits for it, and a restart does not help. If its producer is "
        "gone, end it: kafka-transactions.sh --bootstrap-server a:9092,b:9092 abort --topic t --partition 3 "
        "--start-offset 812"
    )


def test_of_offsets_that_the_user_may_not_see_the_words_say_how_they_are_found() -> None:
    text = OpenTransaction("__consumer_offsets", None, None, 0.0, is_exact=False, group="g").in_words("k", 1.0)
    assert (
        "of the group g cannot be read since 1970-01-01T00:00:00Z or earlier (1 s), because a transaction has" in text
    )
    assert "--bootstrap-server k find-hanging --topic __consumer_offsets shows it" in text
    text = OpenTransaction("__consumer_offsets", 7, None, 0.0, is_exact=False, group="g").in_words("k", 1.0)
    assert "abort --topic __consumer_offsets --partition 7 --start-offset OFFSET ends it" in text


def test_an_address_that_a_shell_would_obey_is_not_in_the_command() -> None:
    text = OpenTransaction("t", 0, 0, 0.0, is_exact=True).in_words("$(reboot):9092", 0.0)
    assert "--bootstrap-server SERVERS abort" in text
