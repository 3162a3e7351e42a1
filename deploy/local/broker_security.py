"""Properties of Apache Kafka for encrypted connections, users, tokens and ACLs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def secure_properties(folder: Path, host: str) -> str:
    """Make an authority (ca.crt) and a certificate of the broker; return properties with them and one user.

    The user can log in by SCRAM-SHA-512 and by PLAIN.
    """
    certificate, key = folder / "broker.crt", folder / "broker.key"
    commands = [
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=kubeweir test authority",
         "-keyout", "ca.key", "-out", "ca.crt"],
        ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=broker", "-keyout", key.name, "-out", "broker.csr"],
        ["x509", "-req", "-in", "broker.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
         "-extfile", "names", "-out", certificate.name],
    ]  # fmt: skip
    (folder / "names").write_text(f"subjectAltName=IP:{host},IP:127.0.0.1,DNS:localhost")
    for arguments in commands:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    # Kafka accepts a PEM keystore file only if it contains both the key and the certificate chain.
    (folder / "broker.pem").write_text(key.read_text() + certificate.read_text())
    module = "org.apache.kafka.common.security"
    return f"""sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
ssl.keystore.type=PEM
ssl.keystore.location={folder / "broker.pem"}
ssl.truststore.type=PEM
ssl.truststore.location={folder / "ca.crt"}
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required \\
  username="weir" password="weir" user_weir="weir";
listener.name.ssl.ssl.client.auth=required
"""


def authorizer_properties() -> str:
    """Return properties that let user weir do everything, and others what ACLs allow.

    The controller's listener knows its clients as ANONYMOUS.
    """
    return """authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:weir;User:ANONYMOUS
"""


def token_properties(jwks: str) -> str:
    """Return properties of OAUTHBEARER with tokens that a key at the URL has signed."""
    module = "org.apache.kafka.common.security.oauthbearer"
    prefix = "listener.name.sasl_ssl.oauthbearer"
    return f"""listener.name.sasl_ssl.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN,OAUTHBEARER
{prefix}.sasl.jaas.config={module}.OAuthBearerLoginModule required;
{prefix}.sasl.server.callback.handler.class={module}.OAuthBearerValidatorCallbackHandler
{prefix}.sasl.oauthbearer.jwks.endpoint.url={jwks}
{prefix}.sasl.oauthbearer.expected.audience=kubeweir-test
{prefix}.sasl.oauthbearer.expected.issuer=kubeweir-test
{prefix}.sasl.oauthbearer.clock.skew.seconds=0
{prefix}.connections.max.reauth.ms=3600000
"""
