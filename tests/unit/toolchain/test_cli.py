"""The `edgeqwen-compile` command as people and scripts use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from runtime.profile import builtin_profiles, find_profile, parse_profile
from toolchain.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="edgeqwen-compile")


def test_profiles_lists_all_that_come_along() -> None:
    """For people a row each, for scripts an object each that is a valid profile."""
    shown = run("profiles")
    assert shown.exit_code == 0
    for name in builtin_profiles():
        assert name in shown.stdout
    listed = json.loads(run("profiles", "--json").stdout)
    assert [parse_profile(each, "shown").name for each in listed] == list(builtin_profiles())


def test_show_prints_a_profile_that_can_be_read_back() -> None:
    """Every default is filled in, and nothing else is changed."""
    done = run("profiles", "show", "raspberry-pi-5")
    assert done.exit_code == 0
    shown = yaml.safe_load(done.stdout)
    assert shown["quantization"]["int4"]["algorithm"] == "gptq"
    assert parse_profile(shown, "shown").digest == find_profile("raspberry-pi-5").digest


def test_explain_has_a_line_for_every_field() -> None:
    """Each field with its path, its default and its description."""
    done = run("profiles", "explain")
    assert done.exit_code == 0
    for words in ("name", "device.memory_mb", "runtime.kv_cache.budget_mb", "quantization.int4.block_size"):
        assert words in done.stdout
    [line] = [line for line in done.stdout.splitlines() if "quantization.int4.head_bits" in line]
    assert "8" in line
    assert "Bits of the tied head and embedding." in line
    assert "required" in done.stdout


def test_check_accepts_the_profiles_that_come_along() -> None:
    """One line for each, with its digest."""
    files = [str(path) for path in builtin_profiles().values()]
    done = run("profiles", "check", *files)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == len(files)
    assert find_profile("raspberry-pi-4").digest[:12] in done.stdout


def test_check_prints_every_fault_of_every_file(tmp_path: Path) -> None:
    """A line for each fault with its file and path; a good file among bad ones is still said to be good."""
    data = find_profile("generic-x86_64").model_dump()
    good, bad, missing = tmp_path / "generic-x86_64.yaml", tmp_path / "bad.yaml", tmp_path / "missing.yaml"
    good.write_text(yaml.safe_dump(data))
    data["runtime"] |= {"slots": 0, "colour": "red"}
    bad.write_text(yaml.safe_dump(data | {"name": "Bad!"}))
    done = run("profiles", "check", str(bad), str(good), str(missing))
    assert done.exit_code == 3
    assert done.stdout.startswith(f"{good}: ok (generic-x86_64, digest ")
    *faults, last = done.stderr.splitlines()
    assert faults == [
        f"{bad}: name: must match ^[a-z0-9][a-z0-9_-]{{0,62}}$ (got 'Bad!')",
        f"{bad}: runtime.colour: is not a known key",
        f"{bad}: runtime.slots: must be >= 1 (got 0)",
    ]
    assert last.startswith(f"{missing}: cannot be read: ")


@pytest.mark.parametrize(
    "arguments",
    [["profiles", "show", "raspberry-pi5"], ["build", "reference", "--profile", "raspberry-pi5", "-o", "out"]],
)
def test_an_unknown_profile_is_one_line_and_3(arguments: list[str]) -> None:
    """The near name is suggested, and no model is looked for."""
    done = run(*arguments)
    assert done.exit_code == 3
    assert done.stderr.startswith("edgeqwen-compile: no profile 'raspberry-pi5': did you mean raspberry-pi-5? ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("version", ["1.2", "v1.2.0", "1.02.0", "1.2.0-rc1"])
def test_a_version_that_devices_cannot_compare_is_refused(version: str, tmp_path: Path) -> None:
    """A usage error, before anything is looked for."""
    done = run(
        "build", "nowhere", "--profile", "generic-x86_64", "--package-version", version, "-o", str(tmp_path / "o")
    )
    assert done.exit_code == 2
    assert f"looks like MAJOR.MINOR.PATCH, three numbers of at most 6 digits (got '{version}')" in done.stderr


def test_a_profile_that_cannot_be_built_is_refused_with_its_reason(tmp_path: Path) -> None:
    """One line that says what to use meanwhile, exit status 3, no model looked for; `profiles` says the same."""
    out = tmp_path / "out"
    done = run("build", "reference", "--profile", "rockchip-rk3588-npu", "--profile", "generic-x86_64", "-o", str(out))
    assert (done.exit_code, done.stderr.count("\n"), done.stdout) == (3, 1, "")
    assert "RKLLM's toolkit is not on PyPI" in done.stderr
    assert "use rk3588-cpu meanwhile" in done.stderr
    assert not out.exists()
    listed = run("profiles").stdout
    assert "no, use rk3588-cpu" in listed
    assert "rockchip-rk3588-npu cannot be built: RKLLM's toolkit is not on PyPI" in listed


def test_a_missing_checkpoint_is_one_line_and_7(tmp_path: Path) -> None:
    """The stage is reported, then the reason; no package appears."""
    out = tmp_path / "out"
    done = run(
        *("build", str(tmp_path / "nowhere"), "--profile", "generic-x86_64"),
        *("--cache", str(tmp_path / "cache"), "-o", str(out)),
    )
    assert done.exit_code == 7
    assert done.stderr.splitlines() == [
        "checkpoint ...",
        f"edgeqwen-compile: there is no folder or file {tmp_path / 'nowhere'};"
        " a hub id looks like Qwen/Qwen2.5-0.5B-Instruct",
    ]
    assert done.stdout == ""
    assert not out.exists()


@pytest.mark.parametrize("arguments", [["build"], ["build", "reference", "-o", "out"], ["profiles", "check"], ["no"]])
def test_a_call_that_makes_no_sense_is_2(arguments: list[str]) -> None:
    """Usage goes to stderr, as with any command."""
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Usage: edgeqwen-compile" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--adapter", "pumps"], "looks like NAME=FOLDER"),
        (["--adapter", "Pumps=folder"], "looks like NAME=FOLDER"),
        (["--adapter", "a=one", "--adapter", "a=two"], "'a' is given twice"),
        (["--adapter-targets", "q_proj,lm_head"], "there is no lm_head; there are q_proj, k_proj"),
    ],
)
def test_adapters_are_named_and_change_projections(arguments: list[str], reason: str) -> None:
    done = run("build", "reference", "--profile", "generic-x86_64", "-o", "out", *arguments)
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.split())


def test_an_adapter_is_converted_for_a_package_to_a_file_of_its_name(tmp_path: Path) -> None:
    """Whatever else is asked for is refused before anything is read."""
    asked = ("adapter", str(tmp_path), "--package", str(tmp_path / "none"), "-o")
    assert run(*asked, "pumps.bin").exit_code == 2
    missing = run(*asked, str(tmp_path / "pumps.onnx_adapter"))
    assert (missing.exit_code, missing.stderr.count("\n")) == (4, 1)
    assert "there is no package at" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--profile", "generic-x86_64", "-o", "out"], "Missing argument '[SOURCE]'"),
        (["reference", "-o", "out"], "Missing option '--profile'"),
        (["reference", "--profile", "generic-x86_64"], "Missing option '-o' / '--output'"),
        (["reference", "--profile", "generic-x86_64", "-o", "out", "--workers", "2"], "'--workers' is for --matrix"),
        (["reference", "--list"], "'--list' is for --matrix"),
        (["--matrix", "m.yaml", "--precision", "int8"], "'--precision' is for one package: with --matrix,"),
        (["reference", "--matrix", "m.yaml"], "'[SOURCE]' is for one package"),
        (["--matrix", "m.yaml", "--workers", "0"], "Invalid value for '--workers'"),
        (["--matrix", "m.yaml", "--workers", "2", "--cluster", "tcp://a:1"], "a cluster has the workers that it has"),
        (["--matrix", "m.yaml"], "say where packages go, with `output` in m.yaml or with --output"),
    ],
)
def test_build_is_for_one_package_or_for_a_matrix(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other needs is not asked for, and what it alone knows is refused."""
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text("{models: [reference], profiles: [generic-x86_64]}")
    done = run("build", *arguments)
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.split())


def test_the_jobs_of_a_matrix_are_listed(tmp_path: Path) -> None:
    """For people and scripts, and nothing is looked for or written."""
    file = tmp_path / "matrix.yaml"
    file.write_text("{models: [a/Qwen3, b/Qwen2], profiles: [generic-x86_64, raspberry-pi-5], precisions: [int8]}")
    listed = json.loads(run("build", "--matrix", str(file), "--list", "--json").stdout)
    alike = {"precision": "int8", "profiles": ["generic-x86_64", "raspberry-pi-5"], "version": "1.0.0"}
    named = [{"name": "qwen3-int8", "model": "a/Qwen3"}, {"name": "qwen2-int8", "model": "b/Qwen2"}]
    assert listed == {"jobs": [each | alike for each in named]}
    assert "qwen2-int8" in run("build", "--matrix", str(file), "--list").stdout
    assert list(tmp_path.iterdir()) == [file]


def test_a_matrix_with_faults_is_one_line_and_3(tmp_path: Path) -> None:
    """With all of them."""
    file = tmp_path / "matrix.yaml"
    file.write_text("{models: [a/b], profiles: [raspberry-pi5], colour: red}")
    done = run("build", "--matrix", str(file), "-o", "out")
    assert (done.exit_code, done.stderr) == (3, f"edgeqwen-compile: {file}: colour: is not a known key\n")
    file.write_text("{models: [a/b, a/b], profiles: [raspberry-pi5]}")
    done = run("build", "--matrix", str(file), "-o", "out")
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith(
        f"edgeqwen-compile: {file}: models[1]: is there already (a/b); profiles[0]: no profile"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    """Each names the variable by which click answers it."""
    done = run("completion", shell)
    assert done.exit_code == 0
    assert "_EDGEQWEN_COMPILE_COMPLETE" in done.stdout


def test_profiles_are_completed() -> None:
    """A started name goes on to those that begin so."""
    env = {"_EDGEQWEN_COMPILE_COMPLETE": "bash_complete", "COMP_WORDS": "edgeqwen-compile profiles show rasp"}
    done = CliRunner().invoke(main, prog_name="edgeqwen-compile", env=env | {"COMP_CWORD": "3"})
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == ["raspberry-pi-4", "raspberry-pi-5"]
