"""Jobs on a cluster: each ends once, those of dead workers again, and a package that is there is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.toolchain.matrix.scripted_cluster import Ending, ScriptedClient, job

from runtime.errors import BuildError
from toolchain.matrix.cluster import Workers
from toolchain.matrix.record import RECORDS
from toolchain.matrix.run import MatrixRun, Result
from toolchain.progress import Jobs

NAMES = ("first", "second", "third")
AGAIN = ("passing", "process dies", "worker dies")


def run(client: ScriptedClient, out: Path, *, retries: int = 2, fail_fast: bool = False) -> list[Result]:
    workers = Workers(client)  # type: ignore[arg-type]
    matrix = MatrixRun(workers, Jobs(), out=out, cache=None, retries=retries, fail_fast=fail_fast)
    return matrix.run([job(name) for name in NAMES])


ENDINGS = st.sampled_from(["built", "failed", "passing", "process dies", "worker dies", "dies unbegun", "crashes"])


def expected(script: list[Ending], retries: int) -> tuple[str, int]:
    """Status and tries of a job."""
    tries = 0
    for ending in [*script, "built"]:
        tries += ending != "dies unbegun"
        if ending == "built":
            return "built", tries
        if ending in ("failed", "crashes") or (ending != "dies unbegun" and tries > retries):
            return "failed", tries
    raise AssertionError


@given(
    scripts=st.fixed_dictionaries({name: st.lists(ENDINGS, max_size=5) for name in NAMES}),
    retries=st.integers(min_value=0, max_value=3),
)
def test_each_job_ends_once_and_no_other_with_it(
    tmp_path_factory: pytest.TempPathFactory, scripts: dict[str, list[Ending]], retries: int
) -> None:
    """Tries are counted by what began. One that ends well has its package, one that does not says why."""
    wanted = {name: expected(script, retries) for name, script in scripts.items()}
    out = tmp_path_factory.mktemp("out")
    results = run(ScriptedClient({name: list(script) for name, script in scripts.items()}), out, retries=retries)
    assert [result.job.name for result in results] == list(NAMES)
    assert {result.job.name: (result.status, result.tries) for result in results} == wanted
    for result in results:
        assert (result.package is not None) == (result.status == "built") == (result.reason is None)
        assert result.package is None or result.package.is_dir()


def test_a_job_whose_workers_die_before_it_begins_is_given_up(tmp_path: Path) -> None:
    """It is not charged for that, but not for ever."""
    client = ScriptedClient({"second": ["dies unbegun"] * 1000})
    first, second, third = run(client, tmp_path)
    assert (first.status, second.status, third.status) == ("built", "failed", "built")
    assert client.given.count("second") < 50
    assert (second.tries, second.reason) == (0, "its worker died, the last of 0 tries")


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    """What came to a package later, such as a signature, is no reason to build it again; what was changed in it is."""
    assert [each.status for each in run(ScriptedClient({}), tmp_path)] == ["built"] * 3
    (tmp_path / "first.ortpackage" / "signatures").mkdir()
    (tmp_path / "second.ortpackage" / "manifest.json").write_text("damaged")
    (tmp_path / RECORDS / "third.json").write_text("{")
    client = ScriptedClient({})
    results = run(client, tmp_path)
    assert [each.status for each in results] == ["unchanged", "built", "built"]
    assert results[0].variants == [{"variant": "board", "mean_kld": 0.01}]
    assert sorted(client.given) == ["first", "second", "second", "third"]
    assert [each.status for each in run(ScriptedClient({}), tmp_path)] == ["unchanged"] * 3
    assert (tmp_path / "first.ortpackage" / "signatures").is_dir()


@pytest.mark.parametrize("name", ["run-1", "run-", "tmp"])
def test_no_name_of_a_package_is_in_the_way_of_a_run(tmp_path: Path, name: str) -> None:
    """Its record lies beside what a run has for itself."""
    for status in ("built", "unchanged"):
        matrix = MatrixRun(
            Workers(ScriptedClient({})),  # type: ignore[arg-type]
            Jobs(),
            out=tmp_path,
            cache=None,
            retries=0,
            fail_fast=False,
        )
        assert [each.status for each in matrix.run([job(name)])] == [status]


def test_packages_come_from_workers_that_do_not_share_the_folder(tmp_path: Path) -> None:
    """Whole, and nothing stays there."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    results = run(ScriptedClient({}, elsewhere), out)
    assert [each.status for each in results] == ["built"] * 3
    assert (out / "first.ortpackage" / "models/decoder/board/model.onnx").read_text().endswith(" of first")
    assert not list(elsewhere.iterdir())
    assert {path.name for path in out.iterdir()} == {RECORDS, *(f"{name}.ortpackage" for name in NAMES)}
    assert [each.status for each in run(ScriptedClient({}, elsewhere), out)] == ["unchanged"] * 3


def test_the_first_failure_stops_the_others_where_that_is_asked_for(tmp_path: Path) -> None:
    """They are cancelled, and the result says so; without it, they go on."""
    client = ScriptedClient({"first": ["failed"]})
    assert [each.status for each in run(client, tmp_path, fail_fast=True)] == ["failed", "stopped", "stopped"]
    assert len(client.cancelled) == 2
    assert [each.status for each in run(ScriptedClient({"first": ["failed"]}), tmp_path)] == [
        "failed",
        "built",
        "built",
    ]


def test_a_lost_scheduler_ends_the_run_in_one_line(tmp_path: Path) -> None:
    client = ScriptedClient({"first": ["scheduler dies"]})
    with pytest.raises(BuildError, match=r"the scheduler is gone, .* run this again"):
        run(client, tmp_path)
    assert len(client.cancelled) == 3
    assert not list((tmp_path / RECORDS).glob(".run-*"))


def test_a_fault_of_ours_fails_its_job(tmp_path: Path) -> None:
    """With its name, and no other's."""
    results = run(ScriptedClient({"third": ["crashes"]}), tmp_path)
    assert [each.status for each in results] == ["built", "built", "failed"]
    assert results[2].reason == "ZeroDivisionError: of ours"
