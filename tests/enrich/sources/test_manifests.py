"""A folder of manifests: what is read, what is refused and where it says so, and what a change does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrich.index.cluster import Cluster
from enrich.model import Name, NetworkPolicy, Pod
from enrich.runtime.process import Exit, StopServiceError
from enrich.sources.factory import make_source, start_source
from enrich.sources.manifest_documents import ManifestError
from enrich.sources.manifest_files import read_folder
from enrich.sources.manifests import ManifestSource
from enrich.sources.source import SourceError
from tests.waiting import until

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: none}]}
status: {podIP: %s, startTime: 2026-11-24T10:00:00Z}
"""
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - ports:
    - port: %s
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    made.mkdir()
    (made / "shop.yaml").write_text(f"{NAMESPACE}---\n{POD % ('web', '10.0.0.1')}")
    return made


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def source(folder: Path, cluster: Cluster) -> Iterator[ManifestSource]:
    made = ManifestSource(folder, cluster)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def problems(folder: Path) -> list[str]:
    with pytest.raises(ManifestError) as raised:
        read_folder(folder)
    return raised.value.problems


def names(folder: Path) -> set[str]:
    return {str(made.key) for made in read_folder(folder)}


# --- what is read


def test_documents_lists_folders_and_json(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep/er/list.yml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n"
        "- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n"
    )
    (folder / "one.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}')
    (folder / "empty.yaml").write_text("---\n---\n# nothing\n")
    assert names(folder) == {"shop", "shop/web", "a", "b", "c"}


def test_other_files_are_no_errors(folder: Path) -> None:
    (folder / "notes.txt").write_text("kind: nonsense: [")
    assert names(folder) == {"shop", "shop/web"}


def test_hidden_files_are_not_read(folder: Path) -> None:
    """A mounted ConfigMap shows each file twice, below ..data and in the folder itself."""
    (folder / "..2026").mkdir()
    shutil.move(folder / "shop.yaml", folder / "..2026/shop.yaml")
    (folder / "..data").symlink_to("..2026")
    (folder / "shop.yaml").symlink_to("..data/shop.yaml")
    (folder / ".#shop.yaml").symlink_to("nobody@nowhere")
    assert names(folder) == {"shop", "shop/web"}


# --- what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Pod\nmetadata: {name: x}\n", "bad.yaml, document 1 (line 1): apiVersion: is required"),
        ("apiVersion: v1\n", "kind: is required"),
        (
            POLICY.replace("kind: NetworkPolicy", "kind: NetworkPolicies") % ("p", "80"),
            "kind: networking.k8s.io/v1 NetworkPolicies is not used here",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n",
            "kind: apps/v1 Deployment is not used here; move it out of this folder, which may have only Pod, Name",
        ),
        ("just text\n", "must be an object"),
        ("[]\n", "must be an object"),
        ("a: [1\n", "bad.yaml: is not valid YAML"),
        ("a: !!python/object:os.system {}\n", "is not valid YAML"),
        ("apiVersion: v1\nkind: Namespace\nkind: Pod\nmetadata: {name: x}\n", "duplicate key kind"),
        (POLICY % ("p", "70000"), "spec.ingress[0].ports[0].port"),
        (NAMESPACE.replace("shop", "x, labels: {version: 1.10}"), "metadata.labels[version]: must be a string"),
        (NAMESPACE.replace("shop", "x, labels: {day: 2026-01-01}"), "metadata.labels[day]: must be a string"),
        (NAMESPACE.replace("shop", "x, labels: {on: 'y'}"), "metadata.labels"),
        ("kind: List\nitems: [7]\n", "bad.yaml, document 1 (line 2), items[0]: must be an object"),
        ("\xff", "is not valid YAML"),
        ("", "is empty"),
    ],
)
def test_a_wrong_document_is_named_by_file_document_and_field(folder: Path, text: str, said: str) -> None:
    (folder / "bad.yaml").write_bytes(text.encode("latin-1"))
    (found,) = problems(folder)
    assert found.startswith("bad.yaml")
    assert said in found


def test_the_line_is_that_of_the_field_or_of_what_lacks_it(folder: Path) -> None:
    (folder / "bad.yaml").write_text(
        f"{NAMESPACE.replace('shop', 'x')}---\nkind: Pod\n---\n{POLICY % ('p', 80)}    - protocol: 5\n"
        "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: b\n  labels:\n    a.b/c: ''\n    d.e/f: 1\n"
    )
    assert problems(folder) == [
        "bad.yaml, document 2 (line 5): apiVersion: is required",
        "bad.yaml, document 3 (line 15): spec.ingress[0].ports[1].protocol: must be a string, is 5",
        "bad.yaml, document 4 (line 23): metadata.labels[d.e/f]: must be a string, is 1",
    ]


def test_everything_that_is_wrong_is_told_at_once(folder: Path) -> None:
    (folder / "a.yaml").write_text("kind: Pod\n---\napiVersion: v1\nkind: Pod\n")
    (folder / "b.yaml").write_text("[")
    assert [line.split(":")[0] for line in problems(folder)] == [
        "a.yaml, document 1 (line 1)", "a.yaml, document 2 (line 3)", "b.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("  ingress:", "  ingres:"), "spec.ingres: there is no such field; did you mean ingress?"),
        (("  podSelector:", "  podSelecter:"), "spec.podSelecter: there is no such field; did you mean podSelector?"),
        (("- ports:", "- form: [{podSelector: {}}]\n    ports:"), "ingress[0].form: there is no such field; did you"),
        (("- ports:", "- to: []\n    ports:"), "spec.ingress[0].to: there is no such field; the fields here are from,"),
        (("- port: 80", "- port: 80\n      protcol: UDP"), "spec.ingress[0].ports[0].protcol: there is no such field"),
        (("- ports:", "- from: [{podselector: {}}]\n    ports:"), "ingress[0].from[0].podselector: there is no such"),
        (("podSelector: {}", "podSelector: {matchLabel: {}}"), "spec.podSelector.matchLabel: there is no such field"),
        (("namespace: shop", "namspace: shop"), "metadata.namspace: there is no such field; did you mean namespace?"),
        (("spec:", "status: {any: thing}\nSpec: {}\nspec:"), "Spec: there is no such field; did you mean spec?"),
        (
            ("{name: p,", "{annotations: {kubeweir.io/mod: audit}, name: p,"),
            "annotations[kubeweir.io/mod]: there is no",
        ),
        (("networking.k8s.io/v1", "networking.k8s.io/v1beta1"), "apiVersion: NetworkPolicy must be networking.k8s.io"),
        (("networking.k8s.io/v1", "networking.k8s.oi/v1"), "did you mean apiVersion networking.k8s.io/v1?"),
        (("kind: NetworkPolicy", "kind: NetworkPolcy"), "is not used here; did you mean NetworkPolicy?"),
    ],
)
def test_a_mistyped_name_is_an_error_and_never_ignored(folder: Path, wrong: tuple[str, str], said: str) -> None:
    (folder / "bad.yaml").write_text((POLICY % ("p", 80)).replace(*wrong))
    (found,) = problems(folder)
    assert said in found


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("subject: {namspaces: {}}", "spec.subject.namspaces: there is no such field; did you mean namespaces?"),
        ("subject: {pods: {podSelector: {}, namespace: {}}}", "spec.subject.pods.namespace: there is no such field"),
        ("ingres: []", "spec.ingres: there is no such field; did you mean ingress?"),
        ("egress: [{action: Deny, too: [], to: [{networks: [0.0.0.0/0]}]}]", "spec.egress[0].too: there is no such"),
        ("egress: [{action: Deny, to: [{network: [0.0.0.0/0]}]}]", "spec.egress[0].to[0].network: there is no such"),
        (
            "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPorts: {number: 1}}}]}]",
            "spec.ingress[0].protocols[0].tcp.destinationPorts: there is no such field",
        ),
    ],
)
def test_a_mistyped_name_in_a_cluster_network_policy(folder: Path, field: str, said: str) -> None:
    known = [] if "subject" in field else ["subject: {namespaces: {}}"]
    spec = ", ".join(["tier: Admin", "priority: 1", *known, field])
    (folder / "bad.yaml").write_text(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\n"
        f"spec: {{{spec}}}\n"
    )
    (found,) = problems(folder)
    assert said in found


def test_every_mistake_in_an_object_is_told_at_once(folder: Path) -> None:
    (folder / "bad.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: P, namespace: shop}\nspec:\n"
        "  podSelector: {matchExpressions: [{key: a, operator: in}, {key: b, operator: In}]}\n"
        "  policyTypes: [ingress]\n  ingress:\n"
        "  - from: [{ipBlock: {cidr: x, except: [y]}}]\n    ports: [{port: 0, endPort: z, protocol: tcp}]\n"
        "  - {ports: 7, form: []}\n"
    )
    fields = sorted(line.split(": ")[1] for line in problems(folder))
    selector, ingress = "spec.podSelector.matchExpressions", "spec.ingress[0]"
    assert fields == sorted(
        [
            "metadata.name", f"{selector}[0].operator", f"{selector}[0].values", f"{selector}[1].values",
            "spec.policyTypes[0]", f"{ingress}.from[0].ipBlock.cidr", f"{ingress}.from[0].ipBlock.except[0]",
            f"{ingress}.ports[0].port", f"{ingress}.ports[0].endPort", f"{ingress}.ports[0].protocol",
            "spec.ingress[1].ports", "spec.ingress[1].form",
        ]
    )  # fmt: skip


def test_what_kubectl_prints_is_read(folder: Path) -> None:
    """`kubectl get -o yaml` adds to metadata and status, and makes a list."""
    (folder / "printed.yaml").write_text(
        "apiVersion: v1\nitems:\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata:\n"
        "    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}\n"
        "    creationTimestamp: 2026-11-24T10:00:00Z\n    generation: 2\n    managedFields: [{manager: kubectl}]\n"
        "    name: printed\n    namespace: shop\n    resourceVersion: '7'\n    uid: 1-2-3\n"
        "  spec: {podSelector: {}}\n  status: {conditions: [{any: thing}]}\n"
        "kind: List\nmetadata: {resourceVersion: ''}\n"
    )
    (folder / "typed.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n"
        "- {metadata: {name: typed, namespace: shop}, spec: {podSelector: {}}}\n"
    )
    assert names(folder) == {"shop", "shop/web", "shop/printed", "shop/typed"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("apiVersion: v1\nkind: List\nitem: []\n", ["item: there is no such field; did you", "items: is required"]),
        ("apiVersion: v1\nkind: List\nitems: {}\n", ["items: must be a list"]),
        ("apiVersion: v2\nkind: List\nitems: []\n", ["apiVersion: List must be v1, is v2"]),
        (
            "apiVersion: v1\nkind: NetworkPolicyList\nitems: [{spec: {}}]\n",
            ["apiVersion: Netw", "metadata.name: is req"],
        ),
        ("a: 1\nb: {c: 1, c: 2}\na: 2\n", ["b.c: duplicate key c", "a: duplicate key a", "apiVersion", "kind"]),
        (f"{POLICY % ('p', 0)}---\n[", ["spec.ingress[0].ports[0].port", "is not valid YAML: line 11, column 1"]),
    ],
)
def test_lists_keys_and_syntax(folder: Path, text: str, said: list[str]) -> None:
    (folder / "bad.yaml").write_text(text)
    found = problems(folder)
    assert len(found) == len(said), found
    for line in said:
        assert any(line in one for one in found), (line, found)


def test_an_object_in_two_files_names_both(folder: Path) -> None:
    (folder / "more.yaml").write_text(POD % ("web", "10.0.0.2"))
    (found,) = problems(folder)
    assert "Pod shop/web" in found
    assert "more.yaml" in found
    assert "shop.yaml" in found


def test_a_source_does_not_start_on_what_is_wrong(folder: Path, cluster: Cluster) -> None:
    (folder / "bad.yaml").write_text("kind: Pod\n---\n[")
    with pytest.raises(SourceError, match=r"bad\.yaml"):
        ManifestSource(folder, cluster).start()
    with pytest.raises(SourceError, match="is not a folder"):
        make_source(f"manifests:{folder}/none", cluster).start()
    for setting, why in ((f"manifests:{folder}/none", "is not a folder"), ("etcd", "must be kubernetes")):
        with pytest.raises(StopServiceError, match=why) as stopped:
            start_source(setting, cluster)
        assert stopped.value.code == Exit.USAGE
    assert not cluster.synced.is_set()


@pytest.mark.parametrize("setting", ["", "manifests", "manifests:", "kubernetes:x", "etcd"])
def test_a_setting_that_means_no_source_is_refused(setting: str, cluster: Cluster) -> None:
    with pytest.raises(SourceError, match="must be kubernetes, or manifests:FOLDER"):
        make_source(setting, cluster)


# --- what a change does


def test_a_started_source_has_everything(source: ManifestSource, cluster: Cluster) -> None:
    assert cluster.synced.is_set()
    assert source.problem() is None
    assert cluster.addresses.owner_at("10.0.0.1", time.time_ns()).pod is not None


def test_changes_are_taken_by_themselves(source: ManifestSource, cluster: Cluster, folder: Path) -> None:
    (folder / "policy.yaml").write_text(POLICY % ("allow", 80))
    until(lambda: Name("shop", "allow") in cluster.policies())
    (folder / "policy.yaml").write_text(POLICY % ("other", 80))
    until(lambda: set(cluster.policies()) == {Name("shop", "other")})
    (folder / "new").mkdir()
    (folder / "new/pod.yaml").write_text(POD % ("api", "10.0.0.2"))
    until(lambda: Name("shop", "api") in cluster.pods())
    (folder / "new/pod.yaml").unlink()
    until(lambda: Name("shop", "api") not in cluster.pods())


def test_a_file_that_is_renamed_into_place(source: ManifestSource, cluster: Cluster, folder: Path) -> None:
    for port in range(1, 6):
        part = folder / f".policy.yaml.{port}"
        part.write_text(POLICY % ("allow", port))
        part.replace(folder / "policy.yaml")
    until(lambda: [_port(p) for p in cluster.policies().values()] == [5])


def _port(policy: NetworkPolicy) -> int | str | None:
    assert policy.ingress is not None
    return policy.ingress[0].ports[0].port


def test_a_change_is_one_change(source: ManifestSource, cluster: Cluster, folder: Path) -> None:
    changes: list[frozenset[type]] = []
    cluster.subscribe(changes.append)
    (folder / "both.yaml").write_text(f"{POLICY % ('allow', 80)}---\n{POD % ('api', '10.0.0.2')}")
    until(lambda: changes)
    assert changes == [frozenset({Pod, NetworkPolicy})]


def test_a_wrong_change_changes_nothing_until_it_is_mended(
    source: ManifestSource, cluster: Cluster, folder: Path
) -> None:
    (folder / "policy.yaml").write_text(POLICY % ("allow", 80))
    until(cluster.policies)
    (folder / "policy.yaml").write_text(POLICY % ("allow", "no"))
    until(lambda: "policy.yaml, document 1 (line 8): spec.ingress[0]" in (source.problem() or ""))
    (folder / "shop.yaml").unlink()
    (folder / "more.yaml").write_text(POLICY % ("more", "no"))
    until(lambda: "more.yaml, document 1" in (source.problem() or ""))
    assert [_port(policy) for policy in cluster.policies().values()] == [80]
    assert cluster.pods(), "not even what is right of a folder that is wrong is taken"
    (folder / "more.yaml").unlink()
    (folder / "policy.yaml").write_text(POLICY % ("allow", 81))
    until(lambda: source.problem() is None)
    assert [_port(policy) for policy in cluster.policies().values()] == [81]
    assert not cluster.pods()


def test_a_file_that_is_being_written_does_not_open_anything(
    source: ManifestSource, cluster: Cluster, folder: Path
) -> None:
    (folder / "policy.yaml").write_text(POLICY % ("allow", 80))
    until(cluster.policies)
    seen: list[int] = []
    cluster.subscribe(lambda _: seen.append(len(cluster.policies())))
    for port in range(1, 40):
        (folder / "policy.yaml").write_text("")  # emptied, then filled, as an editor does
        time.sleep(0.01)
        (folder / "policy.yaml").write_text(POLICY % ("allow", port))
        time.sleep(0.005)
    until(lambda: [_port(policy) for policy in cluster.policies().values()] == [39])
    assert set(seen) == {1}


def test_a_folder_that_is_gone_is_no_empty_cluster(source: ManifestSource, cluster: Cluster, folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    until(lambda: "is not a folder" in (source.problem() or ""))
    assert cluster.pods()
    folder.mkdir()
    (folder / "pod.yaml").write_text(POD % ("api", "10.0.0.2"))
    until(lambda: set(cluster.pods()) == {Name("shop", "api")})
    assert source.problem() is None
    (folder / "more.yaml").write_text(POD % ("more", "10.0.0.3"))
    until(lambda: len(cluster.pods()) == 2)
