"""Each fault of the pipeline fires alerts: its metrics are given to Prometheus' own evaluation of the shipped rules."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.daemons import daemon
from tests.services.queries import RULES

_N1, _S1 = 'job="weir-probe", instance="n1"', 'job="weir-streams", instance="s1"'
_GROUP: Final = 'group="kubeweir.enrich"'

FAULTS: Final[dict[str, tuple[dict[str, str], set[str]]]] = {
    "all brokers are away, for the probe": (
        {
            f'kubeweir_ready{{{_N1}, check="kafka"}}': "0x60",
            f'kubeweir_probe_last_success_age_seconds{{{_N1}, call="produce"}}': "0+60x60",
            f"kubeweir_probe_oldest_unacknowledged_seconds{{{_N1}}}": "0+60x60",
        },
        {"WeirNotReady", "WeirCallsFail", "WeirProbeBehind"},
    ),
    "all brokers are away, for a worker": (
        {
            f'kubeweir_ready{{{_S1}, check="kafka"}}': "0x60",
            f'kubeweir_streams_last_success_age_seconds{{{_S1}, call="fetch"}}': "0+60x60",
        },
        {"WeirNotReady"},
    ),
    "brokers are back elsewhere, and a client does not find them": (
        {
            f'kubeweir_ready{{{_S1}, check="kafka"}}': "0x60",
            f"kubeweir_streams_group_lag_records{{{_S1}, {_GROUP}}}": "0+10x60",
            f"kubeweir_streams_group_lag_seconds{{{_S1}, {_GROUP}}}": "0+60x60",
            f'kubeweir_streams_last_success_age_seconds{{{_S1}, call="fetch"}}': "0+60x60",
        },
        {"WeirNotReady", "WeirCallsFail", "WeirGroupLate"},
    ),
    "a topic is gone": ({f'kubeweir_ready{{{_S1}, check="file"}}': "0x60"}, {"WeirNotReady"}),
    "a role is ready, and commits nothing": (
        {
            f'kubeweir_ready{{{_S1}, check="kafka"}}': "1x60",
            f"kubeweir_streams_group_lag_records{{{_S1}, {_GROUP}}}": "5x60",
            f'kubeweir_streams_last_success_age_seconds{{{_S1}, call="fetch"}}': "2x60",
            f'kubeweir_streams_last_success_age_seconds{{{_S1}, call="commit"}}': "0+60x60",
        },
        {"WeirCallsFail"},
    ),
    "address intervals do not reach Kafka": (
        {
            f'kubeweir_ready{{{_N1}, check="address_intervals"}}': "0x60",
            f'kubeweir_probe_last_success_age_seconds{{{_N1}, call="interval"}}': "0+60x60",
        },
        {"WeirNotReady"},
    ),
    "the watch never comes": (
        {
            f'kubeweir_ready{{{_S1}, check="cluster"}}': "0x60",
            f'kubeweir_streams_watch_age_seconds{{{_S1}, kind="Pod"}}': "0+60x60",
        },
        {"WeirNotReady", "WeirWatchStale"},
    ),
    "a role ends again and again": (
        {f"up{{{_S1}}}": "1 0 1 0 1 0 1 0 1 0x3 1x60", f"process_start_time_seconds{{{_S1}}}": "0+5x60"},
        {"WeirRestarting"},
    ),
    "a role does not start": ({f"up{{{_S1}}}": "0x60"}, {"WeirDown"}),
    "the destination of a sink is away": (
        {
            f'kubeweir_ready{{{_S1}, check="routes"}}': "0x60",
            f'kubeweir_streams_sink_failures_total{{{_S1}, sink="all.webhook"}}': "0+6x60",
        },
        {"WeirNotReady", "WeirSinkFailing"},
    ),
    "nothing is sent, because nothing is to be sent": (
        {
            f'kubeweir_ready{{{_S1}, check="kafka"}}': "1x60",
            f"kubeweir_streams_group_lag_records{{{_S1}, {_GROUP}}}": "0x60",
            f'kubeweir_streams_last_success_age_seconds{{{_S1}, call="fetch"}}': "0+60x60",
            f'kubeweir_streams_last_success_age_seconds{{{_S1}, call="write"}}': "0+60x60",
            f'kubeweir_probe_last_success_age_seconds{{{_N1}, call="produce"}}': "10x60",
            f'kubeweir_probe_last_success_age_seconds{{{_N1}, call="interval"}}': "0+60x60",
        },
        set(),
    ),
}
"""Each fault with its series, one value a minute, and the alerts that fire half an hour later."""


def _case(name: str, series: dict[str, str], alerts: set[str]) -> dict[str, Any]:
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "30m",
                "exp_samples": [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in sorted(alerts)],
            }
        ],
    }


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_fires_its_alerts_and_no_other(name: str, tmp_path: Path) -> None:
    series, alerts = FAULTS[name]
    cases = tmp_path / "faults.test.yml"
    case = _case(name, series, alerts)
    cases.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run(
        [daemon("usr/bin/promtool"), "test", "rules", cases], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
