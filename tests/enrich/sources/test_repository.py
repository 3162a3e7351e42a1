"""What a repository delivers: which kinds are read, what is only counted, and what stands for pods."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enrich.model import Name
from enrich.sources.repository import Repository, read_repository
from enrich.sources.repository_cluster import deliver

SPEC = "spec: {containers: [{name: c, image: none, ports: [{containerPort: 80}]}]}"
TEMPLATE = f"{{metadata: {{labels: {{app: a}}}}, {SPEC}}}"
POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}\n"


def workload(kind: str, version: str, spec: str, name: str = "a", more: str = "") -> str:
    return f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{more}}}\nspec: {spec}\n"


def read(folder: Path, **files: str) -> Repository:
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    return read_repository([folder])


@pytest.mark.parametrize(
    ("text", "pod"),
    [
        (workload("Deployment", "apps/v1", f"{{template: {TEMPLATE}}}"), "a"),
        (workload("StatefulSet", "apps/v1", f"{{template: {TEMPLATE}}}"), "a-0"),
        (workload("DaemonSet", "apps/v1", f"{{template: {TEMPLATE}}}"), "a"),
        (workload("ReplicaSet", "apps/v1", f"{{template: {TEMPLATE}}}"), "a"),
        (workload("Job", "batch/v1", f"{{template: {TEMPLATE}}}"), "a"),
        (workload("CronJob", "batch/v1", f"{{schedule: x, jobTemplate: {{spec: {{template: {TEMPLATE}}}}}}}"), "a"),
        (f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{app: a}}}}\n{SPEC}\n", "a"),
        (f"apiVersion: v1\nkind: Pod\nmetadata: {{generateName: a-, labels: {{app: a}}}}\n{SPEC}\n", "a"),
    ],
)
def test_what_runs_pods_stands_for_one(tmp_path: Path, text: str, pod: str) -> None:
    found = read(tmp_path, a=text)
    assert found.problems == []
    made = deliver(found)
    (one,) = made.pods.values()
    assert (one.key, one.labels) == (Name("default", pod), {"app": "a"})
    assert one.ips[0].startswith("198.18.")
    assert made.invented == {one.key}
    assert [port.port for port in made.ports[one.key]] == [80]
    assert "default" in made.assumed


def test_a_workload_whose_pods_are_there_stands_for_none(tmp_path: Path) -> None:
    owner = ", ownerReferences: [{apiVersion: apps/v1, kind: %s, name: %s, uid: u, controller: true}]"
    top = workload("Deployment", "apps/v1", f"{{template: {TEMPLATE}}}")
    middle = workload("ReplicaSet", "apps/v1", f"{{template: {TEMPLATE}}}", "a-1", owner % ("Deployment", "a"))
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a-1-x{owner % ('ReplicaSet', 'a-1')}}}\n{SPEC}\n"
    assert {str(name) for name in deliver(read(tmp_path, a=f"{top}---\n{middle}")).pods} == {"default/a-1"}
    assert {str(name) for name in deliver(read(tmp_path, b=pod)).pods} == {"default/a-1-x"}


def test_two_workloads_of_a_name_stand_for_two_pods_with_addresses_of_their_own(tmp_path: Path) -> None:
    kinds = ("Deployment", "DaemonSet")
    made = deliver(read(tmp_path, a="---\n".join(workload(k, "apps/v1", f"{{template: {TEMPLATE}}}") for k in kinds)))
    assert {str(name) for name in made.pods} == {"default/a", "default/a-daemonset"}
    assert len({pod.ips for pod in made.pods.values()}) == 2


def test_each_object_of_a_generated_name_is_one(tmp_path: Path) -> None:
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{generateName: a-}}\n{SPEC}\n"
    found = read(tmp_path, a="---\n".join([pod.replace("generateName: a-", "name: a"), pod, pod, pod]))
    assert found.problems == []
    assert {pod.name for pod in deliver(found).pods} == {"a", "a-1", "a-2", "a-3"}


def test_other_kinds_are_counted(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        a=POLICY,
        b="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\napiVersion: v1\nkind: ConfigMap\n",
        c="apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\n",
        d="apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\n",
        e="apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: x}\n",
        values="replicas: 3\n",
        patch="- {op: add, path: /spec, value: 1}\n",
        empty="",
    )
    assert found.problems == []
    assert dict(found.skipped) == {
        "ConfigMap": 2,
        "CiliumNetworkPolicy (cilium.io)": 1,
        "Service (serving.knative.dev)": 1,
        "ServiceAccount": 1,
        "without apiVersion and kind": 2,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POLICY.replace("kind: NetworkPolicy", "kind: NetworkPolicies"), "did you mean NetworkPolicy?"),
        (POLICY.replace("kind: NetworkPolicy", "kind: networkpolicy"), "did you mean NetworkPolicy?"),
        (POLICY.replace("/v1", "/v1beta1"), "NetworkPolicy must be networking.k8s.io/v1"),
        (workload("Deployment", "extensions/v1beta1", f"{{template: {TEMPLATE}}}"), "Deployment must be apps/v1"),
        (workload("Deployment", "apps/v1", "{template: {spec: {}}}"), "spec.template.spec.containers: is required"),
        (workload("Deployment", "apps/v1", f"{{tmplate: {TEMPLATE}}}"), "spec.tmplate: there is no such field"),
        ("apiVersion: v2\nkind: Pod\nmetadata: {name: x}\n", "v2 Pod is not used here; did you mean apiVersion v1?"),
        ("kind: NetworkPolicy\nmetadata: {name: x}\n", "apiVersion: is required"),
        (f"{POLICY}---\n{POLICY}", "NetworkPolicy default/p is also in"),
        ("[{apiVersion: v1, kind: Pod}]", "is a list of objects: put --- between them"),
    ],
)
def test_mistakes_are_found_and_the_rest_is_still_read(tmp_path: Path, text: str, said: str) -> None:
    found = read(tmp_path, bad=text, good=POLICY.replace("name: p", "name: good"))
    assert any(said in str(problem) for problem in found.problems), list(map(str, found.problems))
    assert ("NetworkPolicy", "default", "good") in found.objects


def test_lists_of_workloads_are_read(tmp_path: Path) -> None:
    item = f"{{metadata: {{name: a}}, spec: {{template: {TEMPLATE}}}}}"
    listed = f"apiVersion: apps/v1\nkind: DeploymentList\nitems:\n- {item}\n"
    assert set(deliver(read(tmp_path, a=listed)).pods) == {Name("default", "a")}


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    read(tmp_path, a=POLICY)
    file = tmp_path / "a.yaml"
    for paths in ([file, file], [file, tmp_path], [tmp_path, file], [tmp_path, tmp_path]):
        found = read_repository(paths)
        assert (found.files, found.problems) == (1, [])


def test_charts_and_patches_are_not_read_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "chart/templates").mkdir(parents=True)
    (tmp_path / "chart/Chart.yaml").write_text("name: c\n")
    (tmp_path / "chart/templates/a.yaml").write_text("{{ if .Values.x }}\n")
    found = read(
        tmp_path,
        kustomization="resources: [p.yaml]\nnamespace: shop\npatches: [{path: more.yaml}]\n",
        more=workload("Deployment", "apps/v1", "{replicas: 2}"),
        p=POLICY,
    )
    assert found.problems == []
    assert [key[0] for key in found.written] == ["NetworkPolicy"]
    todos = [todo for _, _, todo in found.unrendered]
    assert todos == [f"helm template {tmp_path}/chart | weir check -", f"kustomize build {tmp_path} | weir check -"]


def test_a_kustomization_without_a_suffix_is_one(tmp_path: Path) -> None:
    (tmp_path / "Kustomization").write_text("resources: [p.yaml]\npatches: [{path: more.yaml}]\n")
    found = read(tmp_path, more="kind: Deployment\nmetadata: {name: a}\nspec: {replicas: 2}\n", p=POLICY)
    assert found.problems == []
    assert len(found.unrendered) == 1


# --- hostile folders


def test_the_command_for_a_folder_is_one_with_any_name(tmp_path: Path) -> None:
    for folder in (tmp_path / "$(reboot); x/a", tmp_path / "$(reboot); x/b"):
        folder.mkdir(parents=True)
    (tmp_path / "$(reboot); x/a/Chart.yaml").write_text("name: c\n")
    (tmp_path / "$(reboot); x/b/kustomization.yaml").write_text("namespace: shop\n")
    todos = [todo for _, _, todo in read(tmp_path).unrendered]
    assert todos == [f"{command} '{tmp_path}/$(reboot); x/{name}' | weir check -" for command, name in (
        ("helm template", "a"), ("kustomize build", "b"),
    )]  # fmt: skip


@pytest.mark.parametrize("number", ["0x" + "f" * 6_000, "1" + ":1" * 200_000, "1" + ":1" * 400 + ".5"])
def test_a_number_that_is_too_long_is_a_mistake(tmp_path: Path, number: str) -> None:
    found = read(tmp_path, a=f"apiVersion: v1\nkind: {number}\n", p=POLICY)
    (problem,) = found.problems
    assert (problem.sort, "line 2: a number has more than" in problem.text) == ("unreadable", True)
    assert list(found.objects) == [("NetworkPolicy", "default", "p")]


def test_a_patch_that_names_no_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "self.yaml").symlink_to(tmp_path / "self.yaml")
    patches = '["a\\0b", "self.yaml", "' + "a" * 5_000 + '"]'
    found = read(tmp_path, kustomization=f"patchesStrategicMerge: {patches}\n", p=POLICY)
    assert list(found.objects) == [("NetworkPolicy", "default", "p")]
    assert [Path(problem.place.file).name for problem in found.problems] == ["self.yaml"]


def test_a_hostile_folder_ends_with_a_line_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.yaml").symlink_to(tmp_path / "self.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)) * 40)
    with (tmp_path / "huge.yaml").open("wb") as huge:
        huge.truncate(1 << 40)
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    (tmp_path / "laughs.yaml").write_text(f"a0: &a0 [x]\n{laughs}")
    (tmp_path / "inside.yaml").write_text("apiVersion: v1\nkind: Pod\nspec: &a {containers: [*a]}\n")
    (tmp_path / "deep.yaml").write_text("[" * 100_000)
    (tmp_path / "tall.yaml").write_text("".join(f"{' ' * n}a:\n" for n in range(900)))
    (tmp_path / "template.yaml").write_text("a: {{ .Values.x }}: 1\n")
    (tmp_path / "unsafe.yaml").write_text("!!python/object/apply:os.system [reboot]\n")
    found = read(tmp_path, good=POLICY)
    said = {Path(problem.place.file).name: problem for problem in found.problems}
    assert all(problem.sort == "unreadable" for problem in said.values())
    expected = {"binary", "huge", "laughs", "inside", "deep", "template", "unsafe", "self", "zero", "pipe"}
    assert {name.removesuffix(".yaml") for name in said} - {"tall"} == expected
    assert "larger than 32 MiB" in said["huge.yaml"].text
    assert "stand for more than" in said["laughs.yaml"].text
    assert "contains the alias" in said["inside.yaml"].text
    assert "helm template" in said["template.yaml"].text
    assert list(found.objects) == [("NetworkPolicy", "default", "p")]
