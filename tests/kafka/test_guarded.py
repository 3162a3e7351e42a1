"""The broker of the tests refuses what no ACL allows, and takes back what is revoked."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclOperation, AdminClient, NewTopic, ResourceType

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from tests.kafka.guarded import GuardedBroker

pytestmark = pytest.mark.kafka


def _create(env: dict[str, str], topic: str) -> int:
    """Return the code of the broker's answer to the creation of a topic."""
    admin = AdminClient({**load(KafkaSettings, env).connection(), "log_level": 0})
    try:
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(120)
    except KafkaException as error:
        return int(error.args[0].code())
    return 0


def test_only_what_an_acl_allows_is_done(guarded: GuardedBroker, tmp_path: Path) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    user, env = guarded.user()
    assert _create(env, f"{prefix}.a") == KafkaError.TOPIC_AUTHORIZATION_FAILED
    acls = guarded.allow(user, ResourceType.TOPIC, prefix, AclOperation.CREATE)
    assert _create(env, f"{prefix}.a") == 0
    guarded.revoke(acls)
    assert _create(env, f"{prefix}.b") == KafkaError.TOPIC_AUTHORIZATION_FAILED
    with_certificate = guarded.certificate(tmp_path, user)
    assert _create(with_certificate, f"{prefix}.b") == KafkaError.TOPIC_AUTHORIZATION_FAILED
    guarded.allow(f"CN={user}", ResourceType.TOPIC, prefix, AclOperation.CREATE)
    assert _create(with_certificate, f"{prefix}.b") == 0
