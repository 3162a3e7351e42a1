"""A backtest predicts what the kernel decides when the change is really in force: a short run of ``make applied``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from enrich.history.backtest import Outcome
from tests.applied.ground import Ground
from tests.applied.search import run_round
from tests.applied.trial import Account, run_trial
from tests.applied.worlds import Case

pytestmark = pytest.mark.kernel

SEED = 16
TRIALS = 10
PACKETS = 300
"""Of a trial, each sent twice."""
KINDS = {
    "IPv4", "IPv6", "ingress", "egress", "Service", "node", "pod to pod", "audited", "ICMP", "cluster policy",
    "named port", "replaced policies",
}  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("ground"))
    yield made
    made.close()


def test_nothing_is_predicted_wrongly(ground: Ground) -> None:
    account = Account()
    run_round(ground, SEED, account, TRIALS, PACKETS)
    text = "\n".join(account.lines())
    assert not account.wrong, text
    assert account.predictions > 2_000, text
    assert account.cannot_say.total() < account.predictions / 50, text
    assert min(account.outcomes[one] for one in Outcome if one is not Outcome.CANNOT_SAY) > 20, text
    assert account.kinds.keys() >= KINDS, text


def test_a_change_that_is_not_put_in_force_makes_predictions_wrong(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account can fail."""
    account = Account()

    def run_without_change(ground: Ground, case: Case, count: int, account: Account) -> None:
        run_trial(ground, replace(case, after=case.before), count, account)

    monkeypatch.setattr("tests.applied.search.run_trial", run_without_change)
    run_round(ground, SEED, account, 4, PACKETS)
    assert account.wrong
