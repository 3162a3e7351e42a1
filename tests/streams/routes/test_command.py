"""`weir routes check` and `weir routes try`, with their exit codes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from streams.cli.main import command
from tests.enrich.flows import make_batch, make_cluster

FILE = """\
version: 1
routes:
  - name: denied
    match: {verdict: deny}
    outputs: [{stdout: {}}]
  - name: web
    match:
      port: [8080, 9000-9009]
      subject: {namespace: shop, labels: {matchLabels: {app: web}}}
    except:
      peer: {cidr: 203.0.113.0/24}
    outputs: [{stdout: {}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routes.yaml"
    path.write_text(FILE)
    return path


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(command, ["routes", *arguments], input=stdin)


def records(*verdicts: dict[str, object]) -> bytes:
    return b"\n".join(Enricher(make_cluster()).records(merge(make_batch(*verdicts))).values)


def test_a_good_file_ends_with_0_and_a_wrong_one_with_2_and_its_lines(file: Path) -> None:
    done = run("check", str(file))
    assert (done.exit_code, done.output) == (0, f"{file}: valid: 2 routes with 2 outputs\n")
    file.write_text(FILE.replace("9000-9009", "9009-9000").replace("203.0.113.0/24", "203.0.113.0/33"))
    done = run("check", str(file))
    assert done.exit_code == 2
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [f"{file}:8", f"{file}:11"]
    assert run("check", str(file.parent / "none.yaml")).exit_code == 2


def test_it_says_which_routes_take_a_record_and_why_the_others_do_not(file: Path) -> None:
    done = run("try", str(file), stdin=records({"verdict": 2}, {"destination_port": 9001}))
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "9f%d3c-100  deny egress shop/web-1 -> shop/api-1:8080",
        "  taken by denied",
        "  taken by web",
        "9f%d3c-101  allow egress shop/web-1 -> shop/api-1:9001",
        "  taken by web",
        "  not taken by denied: match.verdict must be deny, but is allow",
    ]


MISSES = [
    ({"destination_port": 443}, "match.port must be 8080, 9000-9009, but is 443"),
    ({"protocol": 1}, "match.port must be 8080, 9000-9009, but is none"),
    ({"endpoint": 8}, "match.subject.namespace must be shop, but is gone"),
    ({"destination": "203.0.113.9"}, "except[0] fits"),
]


@pytest.mark.parametrize(("row", "why"), MISSES)
def test_a_record_that_no_route_takes_ends_with_1(file: Path, row: dict[str, object], why: str) -> None:
    done = run("try", str(file), "-o", "json", stdin=records(row))
    assert done.exit_code == 1
    assert orjson.loads(done.output)["missed"]["web"] == why


@pytest.mark.parametrize("junk", [b"{", b"[]", b"{}", b'{"disposition": 3}', b"nonsense"])
def test_what_is_no_record_ends_with_2(file: Path, junk: bytes) -> None:
    done = run("try", str(file), stdin=junk)
    assert done.exit_code == 2
    assert "line 1 is not a flow record" in done.stderr
