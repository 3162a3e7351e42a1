"""The commands that ``make test-install`` runs are those of the pages."""

from __future__ import annotations

from tests.cluster.rendering import CHART
from tests.install.pages import LEFT_OUT, SCRIPT, Placeholders, commands
from tests.install.run import STEPS

HERE = Placeholders("localhost", "10.99.0.1:9092", "elsewhere", "one", "two")


def all_commands() -> list[str]:
    return [command for page, heading in SCRIPT for command in commands(page, heading)]


def test_each_command_of_the_pages_is_run_or_left_out_with_a_reason() -> None:
    for command in all_commands():
        found = [one for one in (*STEPS, *LEFT_OUT) if command.startswith(one)]
        assert len(found) == 1, f"{command!r} begins as {found}: tests/install/run.py says what is checked after it"


def test_each_step_stands_on_a_page() -> None:
    for beginning in (*STEPS, *LEFT_OUT):
        assert any(command.startswith(beginning) for command in all_commands()), f"no page has {beginning!r}"


def test_the_page_about_installing_has_the_commands_of_the_readme() -> None:
    there = commands("docs/install.md", "With Helm")
    assert len(there) == 4
    assert [one for one in commands("README.md", "Install") if one in there] == there


def test_what_the_chart_says_after_an_install_are_commands_of_the_readme() -> None:
    notes = (CHART / "templates/NOTES.txt").read_text()
    for value, filled in (("Namespace", "kubeweir"), ("Name", "kubeweir")):
        notes = notes.replace(f"{{{{ .Release.{value} }}}}", filled)
    readme = commands("README.md", "Install")
    after = readme[next(n for n, one in enumerate(readme) if one.startswith("helm install ")) + 1 :]
    assert {one.split()[0] for one in after if f"    {one}\n" not in notes} == {"weir"}


def test_placeholders_are_filled_and_the_namespace_is_another() -> None:
    assert HERE.fill("helm upgrade kubeweir deploy/helm/kubeweir -n kubeweir --set image.tag=NEW") == (
        "helm upgrade kubeweir deploy/helm/kubeweir -n elsewhere --set image.tag=two"
    )
    assert HERE.fill("kubectl create namespace kubeweir && kubectl label namespace kubeweir a=b") == (
        "kubectl create namespace elsewhere && kubectl label namespace elsewhere a=b"
    )
    assert HERE.fill("helm install kubeweir-detach x -n kube-system --set image.tag=latest") == (
        "helm install kubeweir-detach x -n kube-system --set image.tag=one"
    )
    for command in map(HERE.fill, all_commands()):
        assert not any(word in command for word in ("REGISTRY", "KAFKA", "NEW", "OLD", "-n kubeweir")), command
