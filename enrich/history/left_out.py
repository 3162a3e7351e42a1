"""The labels that profiles leave out by default, without what profiles are made with: the settings need only these."""

from __future__ import annotations

from typing import Final

LEFT_OUT: Final = (
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/*",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
)
"""The labels that no profile has, by default. A ``*`` at the end stands for any rest. A profile that was made so does
not say so; therefore this list never changes. Another default would need a form of profiles of its own."""
