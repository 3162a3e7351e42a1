"""Runs trials in random clusters until there are enough predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.applied.ground import Ground
from tests.applied.trial import Account, run_trial
from tests.applied.worlds import Case, cases

_PACKETS: Final = 1_000
"""Packets of a trial, each sent twice."""
_TRIALS: Final = 10
"""Trials of a round. Each round has a seed of its own."""


def search(ground: Ground, first_seed: int, predictions: int, account: Account, say: Callable[[str], object]) -> None:
    """Add trials to an account until it has so many predictions, or a wrong one."""
    number = first_seed
    while account.predictions < predictions and not account.wrong:
        run_round(ground, number, account, _TRIALS, _PACKETS)
        unsaid = account.cannot_say.total()
        say(f"{account.predictions} of {predictions} predictions, {len(account.wrong)} wrong, {unsaid} cannot say")
        number += 1


def run_round(ground: Ground, number: int, account: Account, trials: int, count: int) -> None:
    """Run trials of one seed, with so many packets in each."""

    @seed(number)
    @settings(
        max_examples=trials, deadline=None, database=None, derandomize=False, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases())
    def run(case: Case) -> None:
        run_trial(ground, case, count, account)

    run()
