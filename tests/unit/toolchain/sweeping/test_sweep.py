"""Recipes to compare, and which of them nothing beats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from runtime.profile import builtin_profiles, find_profile
from toolchain.cli import main
from toolchain.recipes.recipe import plan
from toolchain.sweeping.candidates import Candidate, candidates
from toolchain.sweeping.report import write_report
from toolchain.sweeping.sweep import Result, Sweep

VARIED = [name for name in builtin_profiles() if find_profile(name).execution.backend in ("ort", "cuda")]

points = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12)


def sweep_of(figures: list[tuple[int, int]]) -> Sweep:
    """Results of so many bytes and so much divergence, smallest first."""
    results = [
        Result(Candidate(f"recipe {at}", "int4", {}), size, kld / 100, kld / 10, 0.9, 12.0, Path("serving.onnx"), 50.0)
        for at, (size, kld) in enumerate(sorted(figures))
    ]
    return Sweep(results, {}, {})


@given(points)
def test_nothing_beats_those_on_the_front(figures: list[tuple[int, int]]) -> None:
    """And each of the others has one on it that is no larger and no less faithful."""
    sweep = sweep_of(figures)
    front = [(each.weights_bytes, each.mean_kld) for each in sweep.front()]
    for result in sweep.results:
        size, kld = result.weights_bytes, result.mean_kld
        beaten_by = [each for each in front if each[0] <= size and each[1] <= kld and each != (size, kld)]
        assert bool(beaten_by) != ((size, kld) in front)
    assert front == sorted(set(front))


@pytest.mark.parametrize("name", VARIED)
def test_each_candidate_is_another_recipe(name: str) -> None:
    """For a model whose rows all blocks divide; the first of each precision is the profile's own."""
    profile = find_profile(name)
    tried = candidates(profile)
    assert len({each.name for each in tried}) == len(tried)
    keys = [plan(each.applied_to(profile), each.precision, 2048).key for each in tried]
    assert len(set(keys)) == len(keys)
    own = {each.precision: key for each, key in zip(tried, keys, strict=True) if not each.knobs}
    assert own == {precision: plan(profile, precision, 2048).key for precision in ("int4", "int8")}


def test_a_report_has_all_that_was_found(tmp_path: Path) -> None:
    """A row and a number in the picture for each; what failed is named with its reason."""
    sweep = sweep_of([(100, 9), (110, 5), (120, 7)])
    sweep.failed["int4 rotated"] = "Olive failed"
    write_report(sweep, tmp_path, title="tiny", measured_on="here")
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert data["front"] == ["recipe 0", "recipe 1"]
    assert [row["weights_bytes"] for row in data["results"]] == [100, 110, 120]
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert sum(line.startswith("| ") and line[2].isdigit() for line in lines) == 3
    assert lines[-1] == "Failed: int4 rotated: Olive failed"
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--profile", "generic-x86_64", "--recipe", "int2*"], 2, "no recipe is called int2*"),
        (["--profile", "intel-core-ultra-npu"], 2, "for CPUs and CUDA"),
        (["--profile", "rockchip-rk3588-npu"], 3, "no package can be built"),
        (["--profile", "nowhere"], 3, "no profile 'nowhere'"),
    ],
)
def test_what_cannot_be_swept_is_refused(flags: list[str], status: int, words: str) -> None:
    done = CliRunner().invoke(main, ["sweep", "reference", *flags])
    assert done.exit_code == status
    assert words in done.stderr


def test_what_would_be_tried_is_listed() -> None:
    flags = ["--profile", "raspberry-pi-5", "--recipe", "int8*", "--list"]
    listed = json.loads(CliRunner().invoke(main, ["sweep", "reference", *flags, "--json"]).stdout)
    assert [each["name"] for each in listed][:2] == ["int8", "int8 not smooth"]
    assert all(each["precision"] == "int8" for each in listed)
    assert "int8 not smooth: smooth False" in CliRunner().invoke(main, ["sweep", "reference", *flags]).stdout


@pytest.mark.parametrize(("size", "status"), [("400MB", 0), ("1.5GiB", 0), ("400", 0), ("0MB", 2), ("400 apples", 2)])
def test_a_size_has_a_unit_as_everywhere(size: str, status: int) -> None:
    """One that is none is refused before anything is loaded, and the line says how sizes look."""
    arguments = ["sweep", "nowhere", "--profile", "generic-x86_64", "--list", "--max-size", size]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == status
    assert ("must be a size such as 110MB" in done.output) == (status == 2)
