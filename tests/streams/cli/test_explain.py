"""`weir explain` as people run it: the console script, on the demo's folder of manifests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "deploy/examples/demo"
WEB, API = "shop/web-7d9c5b6f4-x2x9p", "shop/api-5f6bd7c9d8-k4m2t"
REPORT = "batch/report-29401200-7wq5h"
SCHEMA: dict[str, Any] = orjson.loads((resources.files("enrich") / "schemas/explanation.schema.json").read_bytes())


def weir(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("WEIR_", "KUBE"))}
    return subprocess.run(
        [Path(sys.prefix) / "bin/weir", "explain", *arguments],
        env={**settings, "WEIR_SOURCE": f"manifests:{DEMO}", **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_allowed_is_0_and_names_the_rules() -> None:
    done = weir(API, "data/db-0:postgres")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        f"ALLOWED  {API} -> data/db-0, port 5432/TCP", "allowed", "note: postgres is 5432/TCP on data/db-0",
    ]  # fmt: skip
    assert f"egress of {API}: allowed by shop/api-to-db (rule 0)" in lines
    assert "ingress of data/db-0: allowed by data/db-from-api (rule 0), data/db-from-shop (rule 0)" in lines
    assert lines[-1] == "fd44::20 -> fd44::30: the same"


def test_denied_is_1_and_says_which_term_failed() -> None:
    done = weir(REPORT, "data/db-0:5432")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"DENIED  {REPORT} -> data/db-0, port 5432/TCP\ndenied at the source (egress) and")
    assert "    rule 0 does not match: port 5432/TCP is not among 53/UDP\n" in done.stdout
    wants = "from[0].namespaceSelector requires team=storefront, but namespace batch has team=analytics"
    assert f"  data/db-from-api: no rule matches\n    rule 0 does not match: {wants}\n" in done.stdout
    assert "\x1b" not in done.stdout, "plain where it is no terminal"


def test_what_it_suggests_makes_it_pass(tmp_path: Path) -> None:
    done = weir(REPORT, "data/db-0:5432", "--suggest")
    assert done.returncode == 1, "the exit code is that of the connection as it is"
    text, _, manifests = done.stdout.partition("\napiVersion: ")
    assert text.endswith("what would allow it today: these 2 NetworkPolicies together would allow it")
    shutil.copytree(DEMO, tmp_path, dirs_exist_ok=True)
    (tmp_path / "suggested.yaml").write_text(f"apiVersion: {manifests}")
    after = weir(REPORT, "data/db-0:5432", WEIR_SOURCE=f"manifests:{tmp_path}")
    assert after.stdout.startswith("ALLOWED")
    assert weir(REPORT, "data/db-0:5433", WEIR_SOURCE=f"manifests:{tmp_path}").returncode == 1
    assert weir(API, "data/db-0:5432", "--suggest").stdout.endswith("nothing needs to be added: it is allowed\n")
    found = orjson.loads(weir(REPORT, "data/db-0/ICMP", "--suggest", "-o", "json").stdout)
    jsonschema.validate(found, SCHEMA)
    assert (found["verdict"], found["suggestion"]["policies"]) == ("deny", [])


def test_a_terminal_gets_colour() -> None:
    assert "\x1b[1;31mDENIED" in weir(REPORT, "data/db-0:5432", FORCE_COLOR="1").stdout


@pytest.mark.parametrize(
    ("source", "destination", "code"),
    [
        (API, "data/db-0:5432", 0),
        (REPORT, "[fd44::30]:5432", 1),
        ("shop/api", "data/db-0:1", 2),
        ("1.1.1.1", "8.8.8.8:53/UDP", 2),
    ],
)
def test_json_is_as_described(source: str, destination: str, code: int) -> None:
    done = weir(source, destination, "-o", "json")
    assert (done.returncode, done.stderr) == (code, "")
    found = orjson.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(found)
    assert found["verdict"] == ("allow", "deny", "unknown")[code]


def test_tiers_and_audit(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "m")
    (tmp_path / "m/cluster-policies.yaml").write_text("""
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard-data}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {team: platform}}}
  ingress:
    - {name: storefront, action: Pass, from: [{namespaces: {matchLabels: {team: storefront}}}]}
    - {name: others, action: Deny, from: [{namespaces: {}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: late}
spec:
  tier: Admin
  priority: 20
  subject: {namespaces: {}}
  ingress: [{action: Accept, from: [{namespaces: {}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: trial, annotations: {kubeweir.io/mode: audit}}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {team: storefront}}}
  egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: db}}}}]}]
""")
    origin = f"manifests:{tmp_path}/m"
    denied = weir("--source", origin, REPORT, "data/db-0:5432")
    assert denied.returncode == 1
    assert "ingress of data/db-0: denied by ClusterNetworkPolicy guard-data (Admin tier, rule 1)" in denied.stdout
    assert "rule 0, Accept, matches, but rule 1 of guard-data has decided before" in denied.stdout
    assert "  NetworkPolicy tier is not evaluated: would deny it\n" in denied.stdout
    audited = weir("--source", origin, API, "data/db-0:5432")
    assert audited.returncode == 0
    assert audited.stdout.startswith("AUDIT  ")
    assert "would be denied by ClusterNetworkPolicy trial (Admin tier, rule 0). Today it is allowed" in audited.stdout
    assert "  Admin tier: passes it on to the next tier\n" in audited.stdout


def test_where_the_families_differ_nobody_guesses(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "m")
    (tmp_path / "m/four.yaml").write_text("""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: only-four}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16}}]}]}
""")
    done = weir("--source", f"manifests:{tmp_path}/m", "data/db-0", f"{WEB}:1234")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        f"DEPENDS  data/db-0 -> {WEB}, port 1234/TCP",
        "it depends on the address: 10.244.0.10 allowed, fd44::10 denied",
    ]
    assert "fd44::30 -> fd44::10: DENIED" in lines
    assert "    rule 0 does not match: from[0].ipBlock 10.244.0.0/16 is IPv4, but fd44::30 is IPv6" in lines


def test_a_denial_shows_the_policies_that_may_have_been_meant() -> None:
    lines = weir(WEB, "data/db-0:postgres").stdout.splitlines()
    assert "    shop/api-to-db: podSelector requires app=api, but the pod has app=web" in lines
    assert "    shop/web-from-outside: applies to ingress only" in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("web", "data/db-0:1"), "neither NAMESPACE/POD nor an address"),
        ((API, "data/db-0"), "a port is missing: write data/db-0:PORT"),
        ((API,), "or a DESTINATION is missing"),
        (("--source", "nowhere", API, "data/db-0:1"), "must be kubernetes, or manifests:FOLDER"),
        (("--source", "manifests:/none", API, "data/db-0:1"), "/none is not a folder"),
    ],
)
def test_what_is_wrong_with_the_question_is_2_on_stderr(arguments: tuple[str, ...], said: str) -> None:
    done = weir(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_wrong_manifest_is_2_and_names_file_and_field(tmp_path: Path) -> None:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\n"
    (tmp_path / "p.yaml").write_text(f"{head}spec: 3\n")
    done = weir("--source", f"manifests:{tmp_path}", API, "data/db-0:1")
    assert done.returncode == 2
    assert "p.yaml" in done.stderr
    assert "spec" in done.stderr


def test_no_configuration_is_2_and_says_what_to_do(tmp_path: Path) -> None:
    done = weir(API, "data/db-0:1", WEIR_SOURCE="kubernetes", HOME=str(tmp_path))
    assert done.returncode == 2
    assert "no Kubernetes configuration" in done.stderr
    assert "Set KUBECONFIG" in done.stderr
    assert ".." not in done.stderr
    assert "--source manifests:FOLDER" in done.stderr


@pytest.mark.parametrize("refuses", [True, False])
def test_a_server_that_cannot_be_reached_is_2_in_time(tmp_path: Path, refuses: bool) -> None:
    """One that refuses, and one that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if refuses:
            silent.close()
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }  # fmt: skip
        (tmp_path / "config").write_bytes(orjson.dumps(config))
        done = weir(
            API, "data/db-0:1",
            WEIR_SOURCE="kubernetes", KUBECONFIG=str(tmp_path / "config"), WEIR_EXPLAIN_SECONDS="1",
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "not listed within 1 s (--timeout)" in done.stderr
    assert "Traceback" not in done.stderr
    if refuses:
        assert "refused" in done.stderr


def test_a_reader_that_goes_away_changes_no_verdict() -> None:
    command = [f"{sys.prefix}/bin/weir", "explain", "--source", f"manifests:{DEMO}", REPORT, "data/db-0:5432"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


REPOSITORY = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: none}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec: {template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: none}]}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: any}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}
  - {from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 9187}]}
  - {from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 9188}]}
"""


def ask(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.prefix) / "bin/weir", "explain", "--source", "manifests:-", "shop/web", f"shop/db-0:{port}"],
        input=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_workloads_of_a_repository_stand_for_their_pods() -> None:
    allowed = ask(5432)
    assert allowed.returncode == 0
    assert "note: shop/web stands for the pods of Deployment web: its address is invented\n" in allowed.stdout
    assert "note: policies do not depend on what was not read: 1 ConfigMap\n" in allowed.stdout
    assert ask(80).returncode == 1


def test_what_depends_on_an_invented_address_is_not_said() -> None:
    """The pods may have addresses in 10.0.0.0/8; that all addresses are in 0.0.0.0/0 is certain."""
    depends = ask(9187)
    assert depends.returncode == 2
    assert depends.stdout.startswith("DEPENDS  shop/web -> shop/db-0, port 9187/TCP\nit depends on the addresses that")
    assert "10.0.0.0 -> 198.18.0.2: ALLOWED" in depends.stdout
    assert ask(9188).returncode == 0
