"""Makes what guards the metrics port.

Only a guard that asks the API server imports what talks to it: the process that supervises the roles needs nothing else
of that, and most installs have no such guard."""

from __future__ import annotations

from enrich.runtime.secure_port import Guard, MetricsSettings


def metrics_guard(settings: MetricsSettings) -> Guard | None:
    """Return what guards the metrics port by these settings, None if nothing does. Raises SettingsError."""
    settings.check_metrics()
    if settings.metrics_certificate is None or settings.metrics_key is None:
        return None
    if settings.metrics_auth != "kubernetes":
        return Guard(settings.metrics_certificate, settings.metrics_key, None)
    from enrich.runtime.token_gate import TokenGate  # noqa: PLC0415 - see above
    from enrich.sources.token_review import reviewer  # noqa: PLC0415 - see above

    return Guard(settings.metrics_certificate, settings.metrics_key, TokenGate(reviewer()))
