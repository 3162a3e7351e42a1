"""The credentials of the Kafka connection in the form of Faust's client, aiokafka."""

from __future__ import annotations

import ssl

import faust

from streams.settings import Settings
from streams.worker.token_provider import TokenProvider


def kafka_credentials(
    settings: Settings,
) -> faust.SASLCredentials | faust.OAuthCredentials | faust.SSLCredentials | None:
    """Return the credentials of the Kafka connection in the form that Faust hands to aiokafka, or None."""
    context = _tls(settings) if settings.uses_tls else None
    if settings.uses_oauth:
        return faust.OAuthCredentials(oauth_cb=TokenProvider(settings.connection()), ssl_context=context)
    if settings.uses_sasl:
        username, password = settings.credentials()
        return faust.SASLCredentials(
            username=username, password=password, ssl_context=context, mechanism=settings.kafka_mechanism
        )
    return faust.SSLCredentials(context) if context else None


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.kafka_ca)
    if settings.kafka_certificate is not None:
        context.load_cert_chain(settings.kafka_certificate, settings.kafka_key)
    return context
